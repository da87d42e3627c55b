r"""How far a perturbation moves the next-token distribution, in nats."""

from collections.abc import Callable
from dataclasses import InitVar, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.errors import HookPointError, ModelError
from tl_steer.hook_points.site import Site
from tl_steer.models.bare import bare_pass
from tl_steer.models.model import HookedModel
from tl_steer.models.state import frozen, without_hooks
from tl_steer.objectives.divergence import Clean, Measured, PerVector, Steered, at_least_float32

# Of the vocabulary, to find two numbers by; and the share of the logits' variance that a scale may
# leave where there is no cap: rounding, in half precision.
_COLUMNS, _NOT_LINEAR = 4096, 1e-4
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
        HookPointError: from an `Objective` whose target is not on the residual stream.
    """

    model: InitVar[HookedModel]

    def __post_init__(self, model: HookedModel) -> None:
        # No field: neither a repr nor a provenance should hold a model.
        object.__setattr__(self, "_readout", readout(model))

    def refuse_target(self, target: Site) -> None:
        """Raise where what is measured is not read by the model's output."""
        if not target.is_residual:
            raise HookPointError(
                f"OutputKL reads the residual stream, and {target} is not on it. Use "
                f"target='blocks.{target.layer}.hook_resid_post', or another divergence."
            )

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
    name = f"blocks.{int(model.cfg.n_layers) - 1}.hook_resid_post"
    seen, logits = bare_pass(model, [name], return_type="logits")
    with frozen(model), without_hooks(model), torch.no_grad():
        plain = unembed(norm(seen[name]))
    if plain.shape != logits.shape:
        raise ModelError(
            f"ln_final and unembed give {tuple(plain.shape)} numbers where this "
            f"{type(model).__name__} has {tuple(logits.shape)} logits."
        )
    scale, cap = 1.0, float(getattr(model.cfg, "output_logits_soft_cap", None) or 0)
    if _off(_capped(plain, cap), logits) >= _tolerance(logits):
        scale, cap = _scale_and_cap(plain, logits, cap)
        # Found on that pass; does it hold on another?
        seen, logits = bare_pass(model, [name], return_type="logits")

    def read(residual: Tensor) -> Tensor:
        found: Tensor = unembed(norm(residual))
        return _capped(found if scale == 1 else found * scale, cap)

    with frozen(model), without_hooks(model), torch.no_grad():
        _refuse_other_logits(model, read(seen[name]), logits)
    return read


def readout_of(model: HookedModel) -> Readout | None:
    """`readout`, where the model's output can be read so."""
    try:
        return readout(model)
    except ModelError:
        return None


def _capped(logits: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(logits / cap) if cap > 0 else logits


def _scale_and_cap(plain: Tensor, logits: Tensor, told: float) -> tuple[float, float]:
    """What a model does to its logits after the unembedding: logits = cap tanh(scale plain / cap),
    and no cap where it is 0. Configs have many names for both (`logits_scaling`, `logit_scale`), so
    they are found by comparing; a cap that the config tells is taken as it is."""
    x, y = (z.cpu().double().flatten(0, -2)[:, :_COLUMNS] for z in (plain, logits))
    caps = torch.tensor([told], dtype=x.dtype, device=x.device)
    scales, misses = _fits(x, y, caps)
    if not told and float(misses[0]) > _NOT_LINEAR:
        # Least squares for each of many caps, then for many about the best.
        least, most = 1.0001, 1e3
        for _ in range(4):
            grid = torch.logspace(0, 1, 64, most / least, dtype=x.dtype, device=x.device)
            caps = float(y.abs().max()) * least * grid
            scales, misses = _fits(x, y, caps)
            best = float(caps[misses.argmin()] / y.abs().max())
            width = (most / least) ** (1 / 32)
            least, most = max(1.0001, best / width), best * width
    best_one = int(misses.argmin())
    return float(scales[best_one]), float(caps[best_one])


def _fits(x: Tensor, y: Tensor, caps: Tensor) -> tuple[Tensor, Tensor]:
    """The scale for each cap, and the share of the logits' variance that is left."""
    x = x - x.mean(dim=-1, keepdim=True)
    scales, misses = [], []
    for cap in caps:
        straight = cap * torch.atanh((y / cap).clamp(-1 + 1e-9, 1 - 1e-9)) if cap > 0 else y
        straight = straight - straight.mean(dim=-1, keepdim=True)
        scale = (x * straight).sum() / x.square().sum()
        scales.append(scale)
        misses.append((straight - scale * x).square().sum() / straight.square().sum())
    return torch.stack(scales), torch.stack(misses).nan_to_num(torch.inf)


def _off(ours: Tensor, logits: Tensor) -> float:
    """The largest difference of two models' log-probabilities, in nats."""
    own, other = (at_least_float32(x).log_softmax(dim=-1) for x in (logits, ours))
    return float((own - other).abs().max().nan_to_num(torch.inf))


def _tolerance(logits: Tensor) -> float:
    return 1e-2 if logits.dtype in (torch.float32, torch.float64) else 0.3


def _refuse_other_logits(model: HookedModel, ours: Tensor, logits: Tensor) -> None:
    """Logits that are made in another way would be read wrong in silence."""
    off = _off(ours, logits)
    if not off < _tolerance(logits):
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
