r"""Direct logit attribution of a change: which component moved which logit.

The last residual stream is a sum of components $c$, so its change is the sum of theirs. The final
norm is not linear, so "what $c$ adds to a logit" needs a convention. Here the gradient of the logit
is averaged over the straight line from the unsteered stream to the steered one:

$$a_c = \Delta c \cdot \int_0^1 \nabla f\big(x_0 + t\,(x_1 - x_0)\big)\,dt$$

so that $\sum_c a_c = f(x_1) - f(x_0)$ exactly, for every norm and soft cap, with nothing held
fixed.
(Integrated gradients: Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", 2017.)
Freezing the norm's scale instead leaves a remainder that belongs to no component.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.models.model import HookedModel
from tl_steer.models.recording import Recording
from tl_steer.objectives.output_kl import Readout

_NODES = 16  # Gauss-Legendre; the integrand is smooth unless the stream passes through zero


def average_gradient(
    read: Readout,
    start: Float[Tensor, " d_model"],
    end: Float[Tensor, " d_model"],
    tokens: Int[Tensor, " token"],
    *,
    less: Int[Tensor, " token"] | None = None,
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, "token d_model"]:
    """Mean gradient of each token's logit along the line from `start` to `end`; of its difference
    to another's, where `less` names that."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    t = torch.tensor((nodes + 1) / 2, dtype=torch.float32, device="cpu")
    line = torch.lerp(start[None], end[None], t[:, None]).to(device, dtype)
    line = line[:, None].requires_grad_()
    with torch.enable_grad():
        every = read(line)[:, 0]
        logits = every[:, tokens.to(every.device)]
        if less is not None:
            logits = logits - every[:, less.to(every.device)]
        found = [
            torch.autograd.grad(column.sum(), line, retain_graph=True)[0][:, 0]
            for column in logits.unbind(dim=1)
        ]
    weight = torch.tensor(weights / 2, dtype=torch.float32, device="cpu")
    return torch.einsum("t,mtd->md", weight, torch.stack(found).float().cpu())


def differentiable(
    read: Readout, stream: Float[Tensor, " d_model"], *, dtype: torch.dtype, device: torch.device
) -> bool:
    """Whether a gradient comes back from the logits; none does through quantised weights."""
    at = stream.to(device, dtype)[None, None].requires_grad_()
    with torch.enable_grad():
        logits = read(at)
        if not logits.requires_grad:
            return False
        return torch.autograd.grad(logits.sum(), at, allow_unused=True)[0] is not None


def parts(seen: Recording, at: int = -1) -> Float[Tensor, "vec stream part d_model"]:
    """What attention, MLP and the rest changed by; see `Inspection.direct`.

    Args:
        at: the token, counted from the end.
    """
    stream = seen.stream[:, :, at]
    change = stream[1:] - stream[:1]
    out = torch.zeros(
        change.shape[0], change.shape[1], 3, change.shape[2], dtype=torch.float32, device="cpu"
    )
    for part, outputs in enumerate((seen.attention, seen.mlp)):
        for layer, value in outputs.items():
            if value.shape[2] == change.shape[2]:
                out[:, layer + 1, part] = value[1:, at] - value[:1, at]
    out[:, 0, 2] = change[:, 0]
    out[:, 1:, 2] = change[:, 1:] - change[:, :-1] - out[:, 1:, 0] - out[:, 1:, 1]
    return out


def through_heads(
    model: HookedModel,
    seen: Recording,
    attention: Float[Tensor, "vec layer d_model"],
    at: int = -1,
) -> Float[Tensor, "vec layer head d_model"] | None:
    """Every head's part of what attention changed by; NaN for layers where the heads do not add up
    to it (a norm behind attention, or an edit of attention's output itself), or its weights cannot
    be read (quantised)."""
    n_heads = int(model.cfg.n_heads)
    if not seen.z:
        return None
    out = torch.full(
        (*attention.shape[:2], n_heads, attention.shape[2]),
        torch.nan,
        dtype=torch.float32,
        device="cpu",
    )
    for layer, z in seen.z.items():
        matrix = _heads_map(model.blocks[layer])
        if matrix is None or matrix.shape[0] * matrix.shape[1] != z.shape[2]:
            continue
        if len(matrix) != n_heads:  # blocks may differ
            continue
        change = (z[1:, at] - z[:1, at]).unflatten(1, (n_heads, -1))
        found = torch.einsum("vhe,hed->vhd", change, matrix)
        whole = attention[:, layer]
        if float((found.sum(dim=1) - whole).norm()) <= 0.05 * float(whole.norm()) + 1e-6:
            out[:, layer] = found
    return out


def _heads_map(block: Any) -> Float[Tensor, "head d_head d_model"] | None:
    try:
        matrix = block.attn.W_O
        return matrix.detach().float().cpu() if isinstance(matrix, Tensor) else None
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None  # there is none, or it is quantised and knows no such operation
