r"""Soft orthogonalised gradient iteration (SOGI), on directions and on responses.

`Sogi` is DCT's iteration with its QR step replaced by a soft one (`sphere.softly_apart`): each
vector gives up the softmax-weighted average of the vectors most like it, those with larger
gradients pushing harder. It has room for more vectors than dimensions. Source: CPE (arXiv
2606.29604) as quoted by others; there it trains rank-one adapters, with ten steps and T = 1.

Vectors that are orthogonal can still do the same thing: a model has many directions for one
behaviour. `ResponseSogi`, which is ours, keeps *responses* apart. With $u_l$ the normalised
responses,

    U' <- softly_off_larger(Δ(R V));   v_l <- ∇_v <u'_l, Δ(R v)> at v_l, normalised

so each vector moves the target where vectors with larger responses do not. Directions are left
alone. A step costs an
extra forward pass, since all responses have to be known before any is pulled back.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.methods.dct import transcode
from tl_steer.methods.protocol import Iterate, Method, flat, moved, restored, state_of
from tl_steer.objectives.objective import Objective
from tl_steer.objectives.response import ResponseMap
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import softly_apart, softly_off_larger


@dataclass(frozen=True)
class Sogi:
    """Soft orthogonality of directions.

    Args:
        steps: gradient iterations.
        temperature: of the softmax over cosines. At 1 nearly everybody pushes everybody; at 0.1
            only near-duplicates push.
        init: a method that finds where to start.
    """

    steps: int = 10
    temperature: float | int = 1.0
    init: Method | None = None

    def __post_init__(self) -> None:
        _refuse(self, self.steps, self.temperature)

    def __call__(
        self, objective: Objective, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        return transcode(
            objective,
            start,
            separate=lambda rows, weights: softly_apart(
                rows, weights, temperature=self.temperature
            ),
            steps=self.steps,
            init=self.init,
            resume=resume,
        )


@dataclass(frozen=True)
class ResponseSogi:
    """Soft orthogonality of responses.

    Args:
        steps: gradient iterations.
        temperature: of the softmax over cosines of responses.
    """

    steps: int = 10
    temperature: float | int = 0.1

    def __post_init__(self) -> None:
        _refuse(self, self.steps, self.temperature)

    def __call__(
        self, objective: Objective, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        responses = ResponseMap(objective)
        here, done = restored(start, resume) if resume else (start, 0)
        for step in range(done + 1, self.steps + 1):
            response = responses(here)
            norms = response.norm(dim=1)
            apart = softly_off_larger(response, temperature=self.temperature)
            _, gradients = responses.pull(here, apart, step=step)
            here = moved(here, flat(gradients))
            yield Iterate(here, norms, step, self.steps, state=state_of(here, step))


def _refuse(method: object, steps: int, temperature: float | int) -> None:
    if steps < 1 or not temperature > 0:
        raise SettingError(f"{method}: expected steps >= 1 and temperature > 0.")
