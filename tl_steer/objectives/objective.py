"""What a method climbs: a segment, a divergence and measured positions, as one function of θ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.models.segment import Segment
from tl_steer.models.state import refuse_inference_weights
from tl_steer.objectives.divergence import Divergence, mean_response, refuse_target
from tl_steer.objectives.named import divergence_of
from tl_steer.objectives.parts import in_parts
from tl_steer.objectives.probe import measure, probe
from tl_steer.perturbations.perturbation import Perturbation

# Rows of the residual stream per pass. On a CPU a few thousand keep the matrix products at full
# speed and the activations in cache; a GPU wants more.
_ROWS_ON_CPU = 2560
_ROWS_ON_GPU = 65536


@dataclass(frozen=True)
class Evaluation:
    """Values, responses and (if asked for) gradients, one row per edit.

    Attributes:
        scores: further numbers per edit, by name, that came with it.
    """

    value: Float[Tensor, " vec"]
    response: Float[Tensor, "vec d_target"]
    gradients: tuple[Tensor, ...] = ()
    scores: dict[str, Float[Tensor, " vec"]] = field(default_factory=dict)

    def without_gradients(self) -> "Evaluation":
        """What is worth keeping of it."""
        return replace(self, gradients=())


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Evaluations of some edits each, as one of all of them."""
    return Evaluation(
        torch.cat([p.value for p in parts]),
        torch.cat([p.response for p in parts]),
        tuple(torch.cat(grads) for grads in zip(*(p.gradients for p in parts), strict=True)),
        {name: torch.cat([p.scores[name] for p in parts]) for name in parts[0].scores},
    )


def edits_per_pass(segment: Segment) -> int:
    """How many edits of this segment's prompts run well in one pass."""
    rows = _ROWS_ON_CPU if segment.clean.device.type == "cpu" else _ROWS_ON_GPU
    return max(1, rows // segment.tokens.ids.numel())


# What is called as an `Objective` is, and all that methods of gradients alone ask for.
Climbed: TypeAlias = Callable[..., Evaluation]


@runtime_checkable
class Goal(Protocol):
    """What is maximised, where that is more than a divergence of activations: it makes what a
    method climbs of a segment itself, as `Contrast` does."""

    def on(self, segment: Segment, *, vec_batch: int | None = None) -> Any:
        """Something that is called as an `Objective` is, and has its `segment`, `vec_batch` and
        `said_smaller`."""


class Objective:
    """`objective(perturbation)` evaluates all edits; `gradient=False` saves the backward pass.

    Args:
        segment: what is run.
        divergence: what is measured; a name out of `DIVERGENCES` stands for one. Tried on a few
            numbers at once (`tl_steer.objectives.probe`).
        measured: where, `[batch pos]`.
        vec_batch: edits per pass; `None` chooses. Changes memory and speed, and results by rounding
            only. Halved, with a warning, when memory runs out, and kept so from then on.

    Raises:
        NotFiniteError: on NaN or infinity, naming the step and the vector.
        SettingError: there is no gradient to climb, or the divergence fails.
        ShapeError: the divergence does not give one number per vector.
        TooLargeError: memory runs out with a single edit per pass.

    Attributes:
        steady: whether an evaluation with gradients is the one without. What a method found on its
            way is then not evaluated again.
    """

    steady = True

    def __init__(
        self,
        segment: Segment,
        divergence: Divergence | str,
        measured: Bool[Tensor, "batch pos"],
        *,
        vec_batch: int | None = None,
    ) -> None:
        refuse_inference_weights(segment.model)
        self.segment, self.divergence = segment, divergence_of(divergence)
        refuse_target(self.divergence, segment.target)
        self.measured = measured.to(segment.clean.device)
        probe(self.divergence, segment.clean, self.measured, moved=segment.mask, gradient=False)
        self.vec_batch = vec_batch or edits_per_pass(segment)
        self.said_smaller = False

    def __call__(
        self, perturbation: Perturbation, *, gradient: bool = True, step: int | None = None
    ) -> Evaluation:
        def evaluate(rows: slice) -> Evaluation:
            part = self.one_pass(perturbation.select(rows), gradient)
            # Values first: one vector's NaN can reach every gradient through a divergence.
            refuse_nonfinite((part.value, *part.gradients), first=rows.start, step=step)
            return part

        return joined(in_parts(len(perturbation), self, evaluate))

    def one_pass(self, part: Perturbation, gradient: bool) -> Evaluation:
        """All of these edits at once, whatever `vec_batch` is, and nothing refused."""
        with torch.set_grad_enabled(gradient):
            steered = self.segment.run(part)
            value = measure(self.divergence, steered, self.segment.clean, self.measured)
            gradients = gradients_of(value, part, self.segment) if gradient else ()
        with torch.no_grad():
            response = mean_response(steered.detach(), self.segment.clean, self.measured)
        return Evaluation(value.detach(), response, tuple(gradients))


def gradients_of(value: Tensor, part: Perturbation, segment: Segment) -> tuple[Tensor, ...]:
    """What `value`, one or more numbers per edit, gains with each parameter.

    Raises:
        SettingError: nothing, because no parameter reaches it.
    """
    parameters = list(part.parameters())
    # Edits do not see each other, so the gradient of the sum holds each one's own.
    found = (
        torch.autograd.grad(value.sum(), parameters, allow_unused=True)
        if value.requires_grad
        else (None,) * len(parameters)
    )
    if all(gradient is None for gradient in found):
        raise no_gradient(segment)
    return tuple(
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, found, strict=True)
    )


def no_gradient(segment: Segment) -> SettingError:
    return SettingError(
        f"No gradient leads from {segment.target} back to {segment.source}: the one does not "
        "depend on the other, or the model or the divergence breaks the gradient (detach, argmax, "
        "rounding). Choose other hook points, or another divergence."
    )


def refuse_nonfinite(parts: Sequence[Tensor], *, first: int = 0, step: int | None = None) -> None:
    """Insist that everything computed for some edits is finite.

    Args:
        parts: tensors with one row per edit, in the order in which they are to be blamed.
        first: number of the first row's edit.
        step: the method's, for the message.

    Raises:
        NotFiniteError: naming the step and the vector.
    """
    rows = (values.flatten(1) if values.ndim > 1 else values[:, None] for values in parts)
    each = torch.stack([r.isfinite().all(dim=1).to(parts[0].device) for r in rows])
    # Asked once: on a GPU every question waits for all that was started.
    if not bool(each.all()):
        finite = next(found for found in each if not bool(found.all()))
        when = "" if step is None else f" at step {step}"
        raise NotFiniteError(
            f"The objective, a response or a gradient is NaN or infinite{when} for vector "
            f"{first + int((~finite).nonzero()[0])}: the perturbation overflows the model. Use a "
            "smaller radius, or a wider dtype."
        )
