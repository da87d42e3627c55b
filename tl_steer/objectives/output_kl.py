r"""How far a perturbation moves the next-token distribution, in nats."""

from collections.abc import Callable
from dataclasses import InitVar, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.models.bare import bare_pass
from tl_steer.models.model import HookedModel
from tl_steer.models.state import frozen, without_hooks
from tl_steer.objectives.divergence import Clean, Measured, PerVector, Steered, at_least_float32

Readout = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_vocab"]]


@dataclass(frozen=True, eq=False)
class OutputKL:
    r"""The sum over measured tokens of $\mathrm{KL}(p_\tau(0)\,\|\,p_\tau(\theta))$, in nats.

    p is the softmax of the model's own final norm and unembedding, applied to the target. Where the
    target is the last block's `hook_resid_post`, that is the next-token distribution: maximising it
    finds what changes the output most, and a negative weight in `Weighted` keeps the output near
    the unsteered one. At an earlier target it is a logit-lens reading: what the model would say if
    it stopped there, which on many models means little far from the end.

    In float32 at least. The first maximum is often a single certain token; look at what it says.

    Args:
        model: the model that is steered. It must have `ln_final` and `unembed`.

    Raises:
        ModelError: the model has no such modules, or they do not give its logits (checked on a few
            tokens when made).
    """

    model: InitVar[HookedModel]

    def __post_init__(self, model: HookedModel) -> None:
        # No field: neither a repr nor a provenance should hold a model.
        object.__setattr__(self, "_readout", readout(model))

    def __call__(self, steered: Steered, clean: Clean, measured: Measured) -> PerVector:
        read: Readout = self.__dict__["_readout"]
        with torch.no_grad():
            before = at_least_float32(read(clean[measured][None])).log_softmax(dim=-1)
        # Measured tokens alone: a vocabulary is wide.
        after = at_least_float32(read(steered[:, measured])).log_softmax(dim=-1)
        return (before.exp() * (before - after)).sum(dim=(1, 2))


def readout(model: HookedModel) -> Readout:
    """The model's map from the last residual stream to logits.

    Raises:
        ModelError: as `OutputKL`.
    """
    norm, unembed = getattr(model, "ln_final", None), getattr(model, "unembed", None)
    if norm is None or unembed is None:
        raise ModelError(
            f"{type(model).__name__} has no ln_final and unembed, so its output cannot be read "
            "at a target."
        )
    cap = float(getattr(model.cfg, "output_logits_soft_cap", None) or 0)

    def read(residual: Tensor) -> Tensor:
        logits: Tensor = unembed(norm(residual))
        return cap * torch.tanh(logits / cap) if cap > 0 else logits

    _refuse_other_logits(model, read)
    return read


def _refuse_other_logits(model: HookedModel, read: Readout) -> None:
    """Scaled or soft-capped logits would be read wrong in silence."""
    name = f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post"
    seen, logits = bare_pass(model, [name], return_type="logits")
    with frozen(model), without_hooks(model), torch.no_grad():
        own = at_least_float32(logits).log_softmax(dim=-1)
        ours = at_least_float32(read(seen[name])).log_softmax(dim=-1)
    off = float((own - ours).abs().max()) if own.shape == ours.shape else float("inf")
    if not off < (1e-2 if logits.dtype in (torch.float32, torch.float64) else 0.3):
        raise ModelError(
            f"ln_final and unembed do not give the logits of this {type(model).__name__} (off by "
            f"{off:.2g} nats): it does something to them that tl_steer does not know."
        )


def next_token(
    model: HookedModel, ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch vocabulary"]:
    """Log-probabilities of the token after each row, in at least float32."""
    logits: Tensor = model(ids, return_type="logits")
    last = logits[:, -1]
    return at_least_float32(last).log_softmax(dim=-1)


def divergence_from(
    base: Float[Tensor, "batch vocabulary"], steered: Float[Tensor, "batch vocabulary"]
) -> Float[Tensor, " batch"]:
    r"""$\mathrm{KL}(p_{steered}\,\|\,p_{unsteered})$ in nats, from log-probabilities."""
    return (steered.exp() * (steered - base)).sum(dim=-1).clamp_min(0.0)
