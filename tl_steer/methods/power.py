r"""Power iteration on the sphere: go where the gradient points, and stay at radius R.

$$\theta_k \leftarrow R\,\frac{g_k'}{\|g_k'\|},\qquad g_k = \nabla_\theta f(\theta_k)$$

For a convex f this is the generalised power method (Journée, Nesterov, Richtárik and Sepulchre
2010, "Generalized power method for sparse PCA", algorithm 1), which never descends. For a linear
model and MELBO's objective it is ordinary power iteration on $J^\top J$, so $\theta$ turns to J's
top right singular vector. Real models are not convex, hence the stopping rule below. It needs no
learning rate, and in practice a handful of steps where AdamW needs hundreds.

**Keeping vectors apart.** From many starts, plain power iteration falls into a few maxima. Here
each gradient first gives up a share ("spread") of what lies in the span of those before it: with G
= QR, R above the diagonal is scaled by 1 - spread (`sphere.spread_apart`). spread = 1 is orthogonal
iteration, which on a linear model finds the singular vectors one by one; spread = 0 is plain
restarts. `docs/benchmarks.md` has the count of distinct responses and the sum of objectives for
each.

**Conventions.** All vectors are climbed together. A method stops after `steps`, or when the total
objective has not risen by `tolerance` (relative) in two steps in a row, and returns the best
iterate: with spread > 0, or at large radii, the total can go down as well as up.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.methods.parameters import (
    as_state,
    evaluation_from,
    evaluation_state,
    from_state,
    state_tensor,
)
from tl_steer.methods.protocol import Iterate, flat, moved, refuse_crowding
from tl_steer.objectives.objective import Climbed, Evaluation
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import spread_apart


@typed_fields
@dataclass(frozen=True)
class Power:
    """Power iteration, batched over vectors.

    Args:
        steps: at most this many gradient evaluations.
        tolerance: relative rise of the total objective that still counts as progress.
        spread: 0 to 1, how strongly vectors are kept apart. 1 needs no more vectors than
            dimensions.
    """

    steps: int = 12
    tolerance: float | int = 0.01
    spread: float | int = 0.7

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.spread <= 1 or not self.tolerance >= 0:
            raise SettingError(f"{self}: expected steps >= 1, 0 <= spread <= 1, tolerance >= 0.")

    def __call__(
        self, objective: Climbed, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        if self.spread == 1:
            refuse_crowding(start)
        here, best, done, stalled = self._resumed(start, resume) if resume else (start, None, 0, 0)
        most = -math.inf if best is None else float(best.at.value.sum())
        for step in range(done + 1, self.steps + 1):
            if stalled == 2:
                return
            at = objective(here, step=step)
            total = float(at.value.sum())
            risen = best is None or total > most * (1 + self.tolerance)
            if best is None or total > most:
                best, most = _Best(here, at.without_gradients()), total
            stalled = 0 if risen else stalled + 1
            # Before the yield, so that the state holds where to go on; nothing in it is changed.
            here = self._advance(here, at.gradients)
            state = as_state("here", here) | as_state("best", best.perturbation)
            state |= evaluation_state(best.at)
            state |= {
                "step": torch.tensor(step, dtype=torch.long, device="cpu"),
                "stalled": torch.tensor(stalled, dtype=torch.long, device="cpu"),
            }
            yield Iterate(
                best.perturbation, best.at.value, step, self.steps, state=state, evaluation=best.at
            )

    def _resumed(
        self, start: Perturbation, state: dict[str, Tensor]
    ) -> tuple[Perturbation, "_Best", int, int]:
        here, best = (from_state(name, start, state) for name in ("here", "best"))
        step, stalled = (int(state_tensor(name, state)) for name in ("step", "stalled"))
        return here, _Best(best, evaluation_from(state)), step, stalled

    def _advance(self, here: Perturbation, gradients: tuple[Tensor, ...]) -> Perturbation:
        apart = []
        for rows in flat(gradients):
            still = rows.norm(dim=1, keepdim=True) == 0
            apart.append(spread_apart(rows, self.spread).masked_fill(still, 0.0))
        return moved(here, apart)


@dataclass(frozen=True, eq=False)
class _Best:
    """The best iterate so far, and the objective there."""

    perturbation: Perturbation
    at: Evaluation
