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

**Blocks and passes.** Unless they are given, both follow from what they cost. With k singular
vectors wanted and b vectors a block,

    pass i       2 (b0 + b) F  +  8 (d + m) (i b)^2
    passes       q(b) = ceil(l / b) - 1 + 8,   l = 2 k

F is the arithmetic of one product (4 operations per weight of the segment's blocks and token of the
prompts), and b0 the number of products whose arithmetic takes as long as reading the weights once:
narrow blocks waste that. The second term is orthogonalisation and Rayleigh-Ritz in d and m
dimensions. q is what narrow blocks need more: q passes of b hold what q - l/b + 1 passes of a block
of l hold, up to the logarithm of the gaps (Meyer, Musco and Musco 2024, "On the unreasonable
effectiveness of single vector Krylov methods for low-rank approximation"), and 8 of those are
taken to be enough where l is twice k. So the products, q b, fall with b until reading weights costs
more, and the cheapest b is taken. That guess chooses b alone. How many passes the gap then asks for
is measured: the residual of J'J within K comes with the next block for nothing, and the span is off
by residual / gap at the most (Davis and Kahan 1970), by a tenth of that as a rule. It stops at
`tolerance`, or where K has 10 k dimensions: where singular values k and k + 1 agree, no number of
passes tells them apart.

**Conventions.** Vectors are right singular vectors: rows of Vh (the published linear DCT takes
columns of Vh, which are no singular vectors of anything). Their sign is arbitrary, and at a finite
radius the two sides do different things: both come back, the larger objective being the user's to
judge. Singular values are in units of response per unit of vector, and repeat for both signs. Where
two of them are close, single vectors are not identifiable; the span is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from tl_steer.errors import SettingError
from tl_steer.files.signatures import refuses, typed_fields
from tl_steer.methods.protocol import Iterate, pointed
from tl_steer.objectives.response import Derivative, Pool, ResponseMap, stacked_response
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import orthonormal_rows

# Of the cost model above: l / k, passes of a block of l, the rows of a matrix product whose
# arithmetic takes as long as reading the weights, and dimensions of K at the most, over k.
_WIDER, _DEPTH, _ROWS, _MOST = 2, 8, 40, 10


@typed_fields
@dataclass(frozen=True)
class Jacobian:
    """Randomised SVD of the Jacobian. For vectors, and other kinds of which a small one does a
    little: their parameters are taken for one long vector.

    Args:
        passes: blocks of the Krylov space, more of which are more accurate; `None` goes on until
            the span is known to `tolerance`.
        block: vectors per block. `None` takes what costs least; where `passes` are given, twice the
            number of singular vectors asked for.
        tolerance: radians by which the span may be off, by the bound above.
        signs: which sides of each singular vector come back, in turn. With (1, -1), n vectors hold
            n / 2 singular vectors.
        pool: `stacked_response` (power steering) or `mean_response` (linear DCT).
    """

    passes: int | None = None
    block: int | None = None
    signs: tuple[int, ...] = (1, -1)
    pool: Pool = stacked_response
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        counts = [n for n in (self.passes, self.block) if n is not None]
        signs = bool(self.signs) and set(self.signs) <= {1, -1}
        if min(counts, default=1) < 1 or not self.tolerance >= 0 or not signs:
            raise SettingError(
                f"{self}: expected passes >= 1, block >= 1, tolerance >= 0 and signs out of 1 and "
                "-1."
            )

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
        size = min(width, self.block or self._size(linear, objective, wanted))
        passes = self.passes or max(1, -(-min(width, _MOST * wanted) // size))
        basis, images, block, done = _resumed(resume) or self._begin(start, size)
        for step in range(done + 1, passes + 1):
            image = linear.push(block)
            if not bool(image.any()):
                raise SettingError(
                    f"A small {type(start).__name__} at {start.site} does nothing to first order, "
                    "so there is no Jacobian to take apart. Use Power, Melbo, Dct or Quadratic."
                )
            basis = torch.cat([basis, block])
            images = torch.cat([images.to(image), image]) if len(images) else image
            exhausted = step == passes or len(basis) == width
            if not exhausted:
                found = linear.pull(image)
                exhausted = self.passes is None and (
                    _off(basis, images, found, wanted) <= self.tolerance
                )
                block = _beyond(basis, found)
            state = {
                "basis": basis,
                "images": images,
                "block": block,
                "step": torch.tensor(step, dtype=torch.long, device="cpu"),
            }
            yield self._iterate(start, basis, images, (step, passes), state)
            if exhausted:
                return

    def _size(self, linear: Derivative, objective: Any, wanted: int) -> int:
        """Vectors per block."""
        if self.passes is not None:
            return 2 * wanted
        segment = objective.segment
        tokens = segment.tokens.ids.numel()
        blocks = [segment.model.blocks[i] for i in range(segment.first, segment.last + 1)]
        weights = sum(p.numel() for block in blocks for p in block.parameters())
        return cheapest_block(
            wanted,
            product=4.0 * weights * tokens,
            tokens=tokens,
            dimensions=linear.width + linear.k,
        )

    def _begin(self, start: Perturbation, size: int) -> tuple[Tensor, Tensor, Tensor, int]:
        """Start where the caller starts; further test directions come from a fixed stream."""
        rows = start.flat()
        width = rows.shape[1]
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
        at: tuple[int, int],
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
        return Iterate(here, singular * start.radius, *at, {"singular value": singular}, state)


def cheapest_block(wanted: int, *, product: float, tokens: int, dimensions: int) -> int:
    """The block whose passes cost least by the model in this module's docstring.

    Args:
        wanted: singular vectors, k.
        product: operations of one product with J, F.
        tokens: that a product runs.
        dimensions: of the source and of the response together, d + m.
    """

    def cost(block: int) -> float:
        passes = -(-_WIDER * wanted // block) - 1 + _DEPTH
        done = sum((i * block) ** 2 for i in range(1, passes + 1))
        return passes * 2 * (_ROWS / tokens + block) * product + 8 * dimensions * done

    return min(range(1, _WIDER * wanted + 1), key=cost)


def _off(basis: Tensor, images: Tensor, found: Tensor, wanted: int) -> float:
    """How far, in radians, the span of the top singular vectors may be off.

    Args:
        found: J'J times the newest rows of `basis`: of all others it lies within the basis.
    """
    if len(basis) <= wanted:
        return math.inf
    left, values, _ = torch.linalg.svd(images.double(), full_matrices=False)
    rows = basis.double()
    beyond = found.double() - (found.double() @ rows.T) @ rows
    newest = left[-len(found) :, :wanted].to(beyond)
    residual = float(torch.linalg.matrix_norm(newest.T @ beyond, 2))
    gap = float(values[wanted - 1] ** 2 - values[wanted] ** 2) if len(values) > wanted else 0.0
    return math.asin(min(1.0, residual / gap)) if gap > 0 else math.inf


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
