"""What a method climbs: a segment, a divergence and measured positions, as one function of θ."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.divergence import Divergence, mean_response
from tl_steer.errors import NotFiniteError
from tl_steer.perturbation import Perturbation
from tl_steer.segment import Segment

# Rows of the residual stream per pass. On a CPU a few thousand keep the matrix products at full
# speed and the activations in cache; a GPU wants more.
_ROWS_ON_CPU = 2560
_ROWS_ON_GPU = 65536


@dataclass(frozen=True)
class Evaluation:
    """Values, responses and (if asked for) gradients, one row per edit."""

    value: Float[Tensor, " vec"]
    response: Float[Tensor, "vec d_target"]
    gradients: tuple[Tensor, ...] = ()


def edits_per_pass(segment: Segment) -> int:
    """How many edits of this segment's prompts run well in one pass."""
    rows = _ROWS_ON_CPU if segment.clean.device.type == "cpu" else _ROWS_ON_GPU
    return max(1, rows // segment.tokens.ids.numel())


class Objective:
    """`objective(perturbation)` evaluates all edits; `gradient=False` saves the backward pass.

    Args:
        segment: what is run.
        divergence: what is measured.
        measured: where, `[batch pos]`.
        vec_batch: edits per pass; `None` chooses. Changes memory and speed, not results.

    Raises:
        NotFiniteError: on NaN or infinity, naming the step and the vector.
    """

    def __init__(
        self,
        segment: Segment,
        divergence: Divergence,
        measured: Bool[Tensor, "batch pos"],
        *,
        vec_batch: int | None = None,
    ) -> None:
        self.segment, self.divergence, self.measured = segment, divergence, measured
        self.vec_batch = vec_batch or edits_per_pass(segment)

    def __call__(
        self, perturbation: Perturbation, *, gradient: bool = True, step: int | None = None
    ) -> Evaluation:
        parts = []
        for start in range(0, len(perturbation), self.vec_batch):
            part = perturbation.select(slice(start, start + self.vec_batch))
            parts.append(self._evaluate(part, gradient))
            self._refuse_nonfinite(parts[-1], start, step)
        return Evaluation(
            torch.cat([p.value for p in parts]),
            torch.cat([p.response for p in parts]),
            tuple(torch.cat(grads) for grads in zip(*(p.gradients for p in parts), strict=True)),
        )

    def _evaluate(self, part: Perturbation, gradient: bool) -> Evaluation:
        with torch.set_grad_enabled(gradient):
            steered = self.segment.run(part)
            value = self.divergence(steered, self.segment.clean, self.measured)
            # Edits do not see each other, so the gradient of the sum holds each one's own.
            gradients = (
                torch.autograd.grad(value.sum(), list(part.parameters())) if gradient else ()
            )
        with torch.no_grad():
            response = mean_response(steered.detach(), self.segment.clean, self.measured)
        return Evaluation(value.detach(), response, tuple(gradients))

    def _refuse_nonfinite(self, part: Evaluation, start: int, step: int | None) -> None:
        # Values first: one vector's NaN can reach every gradient through the user's divergence.
        rows = [part.value[:, None], *(values.flatten(1) for values in part.gradients)]
        finite = next((f for r in rows if not (f := r.isfinite().all(dim=1)).all()), None)
        if finite is not None:
            bad = start + int((~finite).nonzero()[0])
            when = "" if step is None else f" at step {step}"
            raise NotFiniteError(
                f"The objective or its gradient is NaN or infinite{when} for vector {bad}: "
                "the perturbation overflows the model. Use a smaller radius, or a wider dtype."
            )
