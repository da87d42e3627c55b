r"""The top singular vectors of the linear map from source to target at zero.

For small $\theta$ the response is $J\theta$, so the directions that move the target most are J's
right singular vectors. With responses stacked this is power steering (bet, "Power steering",
LessWrong XqcNSFnfAaRz7JGi8) and the limit R → 0 of MELBO with p = 2; averaged, it is linear DCT
(Mack, LessWrong fSRg5qs9TPbNy3sm5).

J is never formed. Block Krylov iteration (Musco and Musco 2015, "Randomized block Krylov methods
for stronger and faster approximate singular value decomposition", algorithm 2): with a random block
$V_0$,

    K = [V_0, (J'J) V_0, ..., (J'J)^(q-1) V_0],  Q = orth(K),  J Q = W S Y'  (Rayleigh-Ritz)

gives singular values S and right singular vectors Q Y. Every product is kept, so a pass costs one
Jv and one J'u per vector of the block, and all use the graph of one clean forward pass.

**Conventions.** Vectors are right singular vectors: rows of Vh (the published linear DCT takes
columns of Vh, which are no singular vectors of anything). Their sign is arbitrary, and at a finite
radius the two sides do different things: both come back, the larger objective being the user's to
judge. Singular values are in units of response per unit of vector, and repeat for both signs. Where
two of them are close, single vectors are not identifiable; the span is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tl_steer.errors import SettingError
from tl_steer.files.signatures import refuses, typed_fields
from tl_steer.methods.protocol import Iterate, pointed
from tl_steer.objectives.response import Pool, ResponseMap, stacked_response
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import orthonormal_rows


@typed_fields
@dataclass(frozen=True)
class Jacobian:
    """Randomised SVD of the Jacobian. For vectors, and other kinds of which a small one does a
    little: their parameters are taken for one long vector.

    Args:
        passes: blocks of the Krylov space. More are more accurate.
        block: vectors per block; `None` takes twice the number of singular vectors asked for.
        signs: which sides of each singular vector come back, in turn. With (1, -1), n vectors hold
            n / 2 singular vectors.
        pool: `stacked_response` (power steering) or `mean_response` (linear DCT).
    """

    passes: int = 4
    block: int | None = None
    signs: tuple[int, ...] = (1, -1)
    pool: Pool = stacked_response

    def __post_init__(self) -> None:
        if self.passes < 1 or not self.signs or not set(self.signs) <= {1, -1}:
            raise SettingError(f"{self}: expected passes >= 1 and signs out of 1 and -1.")

    @refuses
    def __call__(
        self, objective: Any, start: Perturbation, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        wanted = -(-len(start) // len(self.signs))
        width = start.flat().shape[1]
        if wanted > width:
            raise SettingError(
                f"{len(start)} vectors need {wanted} singular vectors, but an edit at "
                f"{start.site} has {width} dimensions. Ask for at most {width * len(self.signs)}."
            )
        linear = ResponseMap(objective, self.pool).derivative(start)
        basis, images, block, done = _resumed(resume) or self._begin(start, wanted)
        for step in range(done + 1, self.passes + 1):
            image = linear.push(block)
            if not bool(image.any()):
                raise SettingError(
                    f"A small {type(start).__name__} at {start.site} does nothing to first order, "
                    "so there is no Jacobian to take apart. Use Power, Melbo, Dct or Quadratic."
                )
            basis = torch.cat([basis, block])
            images = torch.cat([images.to(image), image]) if len(images) else image
            exhausted = step == self.passes or len(basis) == width
            if not exhausted:
                block = _beyond(basis, linear.pull(image))
            state = {
                "basis": basis,
                "images": images,
                "block": block,
                "step": torch.tensor(step, dtype=torch.long, device="cpu"),
            }
            yield self._iterate(start, basis, images, step, state)
            if exhausted:
                return

    def _begin(self, start: Perturbation, wanted: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Start where the caller starts; further test directions come from a fixed stream."""
        rows = start.flat()
        width = rows.shape[1]
        size = min(width, self.block or 2 * wanted)
        generator = torch.Generator().manual_seed(size)
        more = torch.randn(
            max(0, size - len(rows)), width, generator=generator, dtype=torch.float32, device="cpu"
        ).to(rows)
        block = orthonormal_rows(torch.cat([rows[:size], more]))
        return rows[:0], rows[:0], block, 0

    def _iterate(
        self,
        start: Perturbation,
        basis: Tensor,
        images: Tensor,
        step: int,
        state: dict[str, Tensor],
    ) -> Iterate:
        values, right = _ritz(basis, images)
        sides = torch.tensor(self.signs, dtype=right.dtype, device=right.device)
        signed = (right[:, None] * sides[:, None]).flatten(0, 1)[: len(start)]
        singular = values.repeat_interleave(len(self.signs))[: len(start)]
        # The first passes may span fewer directions than asked for: the rest stay at their start.
        missing = (0, len(start) - len(signed))
        here = pointed(start, pad(signed, (0, 0, *missing)))
        singular = pad(singular, missing)
        return Iterate(
            here, singular * start.radius, step, self.passes, {"singular value": singular}, state
        )


def _resumed(state: dict[str, Tensor] | None) -> tuple[Tensor, Tensor, Tensor, int] | None:
    if not state:
        return None
    return state["basis"], state["images"], state["block"], int(state["step"])


def _ritz(basis: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values and right singular vectors of J within the span of `basis` (rows)."""
    left, values, _ = torch.linalg.svd(images.double(), full_matrices=False)
    # The images lie with the target, the basis with the source.
    return values.to(basis), (left.T.to(basis.device) @ basis.double()).to(basis)


def _beyond(basis: Tensor, candidates: Tensor) -> Tensor:
    """Orthonormal rows that add the candidates' span to that of `basis`, as far as there is room.

    QR's later columns are orthogonal to its earlier ones even where candidates are dependent.
    """
    room = basis.shape[1] - len(basis)
    return orthonormal_rows(torch.cat([basis, candidates[:room]]))[len(basis) :]
