"""Whether a divergence can be climbed, asked with a few numbers before a model runs for hours.

It is called once with activations of the right shape, some of them moved at random: does it give
one finite number per vector, and a finite gradient? Ours (`DIVERGENCES`) need not be asked.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.errors import NotFiniteError, SettingError, ShapeError, SteerError
from tl_steer.files.describe import describe
from tl_steer.objectives.divergence import Divergence, Steered
from tl_steer.objectives.named import DIVERGENCES
from tl_steer.objectives.parts import is_out_of_memory

# How far tokens are moved, in shares of the activations' root mean square.
_MOVED = 0.1
_AXES = "[vec batch pos d_model]"


def measure(
    divergence: Divergence,
    steered: Steered,
    clean: Float[Tensor, "batch pos d_model"],
    measured: Bool[Tensor, "batch pos"],
) -> Tensor:
    """The divergence of steered activations.

    Raises:
        SettingError: it raised something; it names the function and what it was called with.
        ShapeError: it gave something else than one number per vector.
    """
    try:
        value = divergence(steered, clean, measured)
    except Exception as error:
        # What is ours says enough, and passes grow smaller where memory runs out.
        if isinstance(error, SteerError) or is_out_of_memory(error):
            raise
        said = str(error).strip().partition("\n")[0][:300]
        raise SettingError(
            f"The divergence {describe(divergence)} raised {type(error).__name__} ({said}) when "
            f"called with steered {list(steered.shape)}, clean {list(clean.shape)} and measured "
            f"{list(measured.shape)}. Expected a function (steered {_AXES}, clean [batch pos "
            "d_model], measured [batch pos]) that gives one number per vector."
        ) from error
    if not isinstance(value, Tensor) or value.shape != (len(steered),):
        raise ShapeError(_of_another_shape(divergence, value, steered))
    return value


def _of_another_shape(divergence: Divergence, value: object, steered: Tensor) -> str:
    vec, batch, pos, _ = steered.shape
    came, advice = f"a {type(value).__name__}", "Give a tensor with one number per vector"
    if isinstance(value, Tensor):
        shape = list(value.shape)
        axes = {
            (vec, batch, pos): " = [vec batch pos]",
            (vec, batch): " = [vec batch]",
            (): ", a single number",
        }
        came = f"a tensor of shape {shape}{axes.get(tuple(shape), '')}"
        advice = "Keep its first axis, and sum over prompts and measured tokens: " + (
            "torch.where(measured, x, 0.0).sum(dim=(1, 2))"
            if tuple(shape) == (vec, batch, pos)
            else "x.sum(dim=1)"
            if tuple(shape) == (vec, batch)
            else "for x of [vec batch pos], torch.where(measured, x, 0.0).sum(dim=(1, 2))"
        )
    return (
        f"The divergence {describe(divergence)} gave {came} for steered activations {_AXES} = "
        f"{list(steered.shape)}; expected [vec] = [{vec}]. {advice}."
    )


def probe(
    divergence: Divergence,
    clean: Float[Tensor, "batch pos d_model"],
    measured: Bool[Tensor, "batch pos"],
    *,
    moved: Bool[Tensor, "batch pos"],
    gradient: bool = True,
) -> None:
    """Call a divergence once.

    Args:
        clean: activations of the shape, dtype and size that it will get.
        measured: tokens that count.
        moved: tokens that steering reaches; the others stay as they are.
        gradient: whether it is to be climbed; values alone need no gradient.

    Raises:
        NotFiniteError: NaN or infinity, in the value or in its gradient.
        SettingError: it fails, or has no gradient.
        ShapeError: it does not give one number per vector.
    """
    if type(divergence) in DIVERGENCES.values() or not bool(clean.isfinite().all()):
        return
    steered = _steered(clean, moved.to(clean.device)).requires_grad_()
    with torch.enable_grad():
        value = measure(divergence, steered, clean, measured.to(clean.device))
        if not bool(value.isfinite().all()):
            raise NotFiniteError(
                f"The divergence {describe(divergence)} gave NaN or infinity for activations that "
                f"are finite, in {clean.dtype}. Compute in float32 (x.float()), and guard "
                "divisions, roots and logarithms of numbers that may be 0."
            )
        if gradient:
            _refuse_gradient(divergence, _gradient(value, steered))


def _refuse_gradient(divergence: Divergence, found: Tensor | None) -> None:
    if found is None:
        raise SettingError(
            f"The divergence {describe(divergence)} has no gradient: what it gives does not lead "
            "back to the steered activations (detach, argmax, rounding, no_grad, or it does not "
            "look at them). Write it in differentiable operations on steered."
        )
    if not bool(found.isfinite().all()):
        raise NotFiniteError(
            f"The gradient of the divergence {describe(divergence)} is NaN or infinite, which "
            "happens where a token did not move: a square root has an infinite slope at 0. Leave "
            "squares, or add a small number under the root."
        )


def _gradient(value: Tensor, steered: Tensor) -> Tensor | None:
    if not value.requires_grad:
        return None
    (found,) = torch.autograd.grad(value.sum(), steered, allow_unused=True)
    return found


def _steered(
    clean: Float[Tensor, "batch pos d_model"], moved: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "vec batch pos d_model"]:
    """Copies of clean activations, moved a little; as many as no other axis is long, so that axes
    are told apart."""
    vec = next(n for n in range(2, 6) if n not in clean.shape)
    noise = torch.randn(
        vec,
        *clean.shape,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float32,
        device="cpu",
    ).to(clean)
    size = _MOVED * float(clean.float().square().mean().sqrt() or 1)
    return clean.detach() + torch.where(moved[..., None], size * noise, 0.0)
