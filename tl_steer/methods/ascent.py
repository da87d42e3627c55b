r"""Gradient ascent on the sphere in steps of a length of their own.

$$m \leftarrow \mu\,m + (1-\mu)\,\frac{g_\perp}{\|g_\perp\|},\qquad
  \theta \leftarrow R\,\frac{\theta/R + s_t\,m/\|m\|}{\|\cdot\|},\qquad
  s_t = s\Big(1 - d\,\frac{t}{T}\Big)$$

with $g_\perp$ the gradient's part along the sphere. The length of the gradient plays no role: where
an objective is flat at first and steep later, as a contrast is, a step is a step. Power iteration
(`methods.power`) jumps to where the gradient points, which suits an objective whose gradient turns
slowly; here continuations are drawn anew at every step, and the gradient with them.

Every iterate is a candidate: each vector comes back as it was where it had most of what `keep`
names, which need not be the end of its climb.

Parameters of several spheres (the columns of an adapter) move each on its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.methods.parameters import (
    as_state,
    evaluation_from,
    evaluation_state,
    from_state,
    state_tensor,
)
from tl_steer.methods.protocol import Iterate, columns
from tl_steer.objectives.objective import Climbed, Evaluation
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import to_tangent


@typed_fields
@dataclass(frozen=True)
class Ascent:
    """Normalised gradient ascent, batched over vectors.

    Args:
        steps: gradient evaluations.
        stride: length of the first step, in radii.
        decline: by how much of itself the stride falls until the end.
        momentum: share of the direction that is kept from the steps before.
        keep: what makes an iterate a vector's best: its "objective", or a score that comes with
            it (`Evaluation.scores`), such as the "lead" of a contrast.
    """

    steps: int = 9
    stride: float | int = 0.25
    decline: float | int = 0.7
    momentum: float | int = 0.6
    keep: str = "objective"

    def __post_init__(self) -> None:
        fine = 0 < self.stride < float("inf") and 0 <= self.decline <= 1 and 0 <= self.momentum < 1
        if self.steps < 1 or not fine:
            raise SettingError(
                f"{self}: expected steps >= 1, stride > 0, 0 <= decline <= 1, 0 <= momentum < 1."
            )

    def __call__(
        self, objective: Climbed, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        here, kept, best, done = self._resumed(start, resume)
        for step in range(done + 1, self.steps + 1):
            at = objective(here, step=step)
            best = _better(best, here, at, self._merit(at))
            # Before the yield, so that the state holds where to go on; nothing in it is changed.
            here, kept = self._advance(here, kept, at.gradients, step - 1)
            state = as_state("here", here) | as_state("best", best.perturbation)
            state |= {f"momentum.{i}": values for i, values in enumerate(kept)}
            state |= evaluation_state(best.at) | {"merit": best.merit}
            state["step"] = torch.tensor(step, dtype=torch.long, device="cpu")
            yield Iterate(
                best.perturbation, best.at.value, step, self.steps, state=state, evaluation=best.at
            )

    def _merit(self, at: Evaluation) -> Tensor:
        known = {"objective": at.value} | at.scores
        if self.keep not in known:
            raise SettingError(
                f"Ascent(keep={self.keep!r}): this objective's evaluations have "
                f"{', '.join(known)}. The lead comes with a contrast."
            )
        return known[self.keep]

    def _resumed(
        self, start: Perturbation, state: dict[str, Tensor] | None
    ) -> tuple[Perturbation, list[Tensor], "_Best | None", int]:
        if not state:
            here = start.select(slice(None))
            here.project_()
            return here, [torch.zeros_like(p.detach()) for p in here.parameters()], None, 0
        count = len(list(start.parameters()))
        kept = [state_tensor(f"momentum.{i}", state) for i in range(count)]
        merit, step = (state_tensor(name, state) for name in ("merit", "step"))
        best = _Best(from_state("best", start, state), evaluation_from(state), merit)
        return from_state("here", start, state), kept, best, int(step)

    def _advance(
        self,
        here: Perturbation,
        kept: list[Tensor],
        gradients: tuple[Tensor, ...],
        done: int,
    ) -> tuple[Perturbation, list[Tensor]]:
        length = self.stride * (1 - self.decline * done / self.steps)
        there, turned = here.select(slice(None)), []
        with torch.no_grad():
            for parameter, old, gradient in zip(there.parameters(), kept, gradients, strict=True):
                spheres = zip(columns(parameter), columns(old), columns(gradient), strict=True)
                pairs = [self._moved(*sphere, length) for sphere in spheres]
                moved, momenta = (torch.stack(rows, dim=1) for rows in zip(*pairs, strict=True))
                parameter.copy_(moved.view_as(parameter))
                turned.append(momenta.view_as(parameter))
        there.project_()
        return there, turned

    def _moved(
        self, rows: Tensor, kept: Tensor, gradient: Tensor, length: float
    ) -> tuple[Tensor, Tensor]:
        along = normalize(to_tangent(gradient, rows), dim=1)
        kept = self.momentum * kept + (1 - self.momentum) * along
        size = rows.norm(dim=1, keepdim=True)
        return rows + size * length * normalize(kept, dim=1), kept


@dataclass(frozen=True, eq=False)
class _Best:
    """The best iterate of every vector, the objective there, and what it was chosen by."""

    perturbation: Perturbation
    at: Evaluation
    merit: Tensor


def _better(best: _Best | None, here: Perturbation, at: Evaluation, merit: Tensor) -> _Best:
    if best is None:
        return _Best(here, at.without_gradients(), merit)
    new = merit > best.merit
    kept = best.perturbation.select(slice(None))
    with torch.no_grad():
        for parameter, values in zip(kept.parameters(), here.parameters(), strict=True):
            parameter[new] = values.detach()[new]
    return _Best(kept, _chosen(new, at, best.at), torch.where(new, merit, best.merit))


def _chosen(new: Tensor, at: Evaluation, before: Evaluation) -> Evaluation:
    return Evaluation(
        torch.where(new, at.value, before.value),
        torch.where(new[:, None], at.response, before.response),
        scores={name: torch.where(new, at.scores[name], v) for name, v in before.scores.items()},
    )
