r"""MELBO: AdamW on the sphere, as in "Mechanistically eliciting latent behaviors in language
models" (Mack and Turner 2024, LessWrong ioPnHKFyy4Cw2Gr2x).

    repeat:  g <- grad(-f);  g <- g - (g.theta) theta / R^2      # tangent to the sphere
             theta <- AdamW(theta, g);  theta <- R theta / |theta|

with AdamW at lr 1e-3, betas (.9, .98), no weight decay, amsgrad (plain Adam oscillates at high R).
AdamW works entry by entry, so training all vectors at once gives each what it would get alone.

**With orthogonality**, vector k stays orthogonal to vectors 1 .. k-1: its gradient is projected
before the step and the vector after it. The original trains them one after another, each against
finished ones; here all move together, each against the current state of those before it. An
adapter's columns are spheres of their own: tangents and orthogonality hold column by column.

**Where the original code errs** (and this does not): its norm runs over tokens instead of
`d_model`, which agrees with the paper at p = 2 only; the objective here is the paper's
(`Displacement`). It measures BOS, whose activations are massive, unless told otherwise; here
measured positions leave it out.

The learning rate is absolute: at a radius far from 4, scale it with the radius, or use `Power`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.methods.parameters import as_state, from_state, state_tensor
from tl_steer.methods.protocol import Iterate, columns, refuse_crowding
from tl_steer.objectives.objective import Climbed
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import orthonormal_rows, to_tangent


@typed_fields
@dataclass(frozen=True)
class Melbo:
    """AdamW on the sphere.

    Args:
        steps: optimiser steps.
        lr: AdamW's learning rate.
        orthogonal: keep every vector orthogonal to those before it.
    """

    steps: int = 300
    lr: float | int = 1e-3
    orthogonal: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.lr < float("inf"):
            raise SettingError(f"{self}: expected steps >= 1 and lr > 0.")

    def __call__(
        self, objective: Climbed, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        if self.orthogonal:
            refuse_crowding(start, columns)
        here = from_state("here", start, resume) if resume else start.select(slice(None))
        optimizer = torch.optim.AdamW(
            here.parameters(), lr=self.lr, betas=(0.9, 0.98), weight_decay=0.0, amsgrad=True
        )
        done = 0
        if resume:
            done = int(state_tensor("step", resume))
            _put_back(optimizer, here, resume)
        else:
            self._constrain_(here)
        for step in range(done + 1, self.steps + 1):
            at = objective(here, step=step)
            for parameter, gradient in zip(here.parameters(), at.gradients, strict=True):
                parameter.grad = self._ascent(parameter.detach(), gradient)
            optimizer.step()
            self._constrain_(here)
            # A copy: the next step, or Ctrl-C in the middle of it, changes `here` in place.
            reached = here.select(slice(None))
            state = as_state("here", reached) | _moments(optimizer, here)
            state["step"] = torch.tensor(step, dtype=torch.long, device="cpu")
            yield Iterate(reached, at.value, step, self.steps, state=state)

    def _ascent(self, values: Tensor, gradient: Tensor) -> Tensor:
        """What AdamW is to descend: minus the gradient, within the constraint."""
        tangents = []
        for down, rows in zip(columns(-gradient), columns(values), strict=True):
            off = _off_earlier(down, rows) if self.orthogonal else down
            tangents.append(to_tangent(off, rows))
        return torch.stack(tangents, dim=1).view_as(values)

    @torch.no_grad()
    def _constrain_(self, here: Perturbation) -> None:
        if self.orthogonal:
            for parameter in here.parameters():
                apart = [orthonormal_rows(rows) for rows in columns(parameter)]
                parameter.copy_(torch.stack(apart, dim=1).view_as(parameter))
        here.project_()


def _off_earlier(gradient: Tensor, rows: Tensor) -> Tensor:
    """Project gradient k off the (orthogonal) rows before k."""
    unit = torch.nn.functional.normalize(rows, dim=1)
    return gradient - torch.tril(gradient @ unit.T, diagonal=-1) @ unit


_MOMENTS = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def _moments(optimizer: torch.optim.AdamW, here: Perturbation) -> dict[str, Tensor]:
    """AdamW's memory, copied: AdamW writes into its tensors."""
    return {
        f"adamw.{name}.{moment}": optimizer.state[parameter][moment].detach().clone()
        for name, parameter in here.named_parameters()
        for moment in _MOMENTS
    }


def _put_back(optimizer: torch.optim.AdamW, here: Perturbation, state: dict[str, Tensor]) -> None:
    for name, parameter in here.named_parameters():
        kept = {m: state_tensor(f"adamw.{name}.{m}", state) for m in _MOMENTS}
        # AdamW keeps its step on the CPU, whatever the device of the parameters.
        optimizer.state[parameter] = {
            m: values.cpu().clone() if m == "step" else values.to(parameter).clone()
            for m, values in kept.items()
        }
