"""Which rows are alike, among many: |cosines| in blocks, so that memory does not grow with the
square of the rows, nor are they ever all in double precision.

Rows are vectors throughout: `[vec d]`. NaN in a row is like everything and nothing.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 4096  # rows that are compared at once
_FEW = 512  # among which one is kept after another


def similar(
    some: Float[Tensor, "some d"], rows: Float[Tensor, "vec d"]
) -> Iterator[tuple[int, Float[Tensor, "some block"]]]:
    """|cosine| of each of some rows with all others, block by block: where the block begins, and
    its columns."""
    own = _unit(some)
    for first in range(0, len(rows), BLOCK):
        yield first, (own @ _unit(rows[first : first + BLOCK]).T).abs_()


def nearest_rows(
    rows: Float[Tensor, "vec d"], most: int
) -> tuple[Int[Tensor, " some"], Float[Tensor, " some"]]:
    """For each of the first `most` rows, the other one that is most like it, and their |cosine|:
    -1 and 0 where there is no other but NaN, -1 and NaN where it is NaN itself."""
    found = [_nearest(rows, part) for part in torch.arange(most, device="cpu").split(BLOCK)]
    return torch.cat([where for where, _ in found]), torch.cat([value for _, value in found])


def _nearest(rows: Tensor, some: Tensor) -> tuple[Tensor, Tensor]:
    where = torch.full_like(some, -1)
    best = torch.full((len(some),), -1.0, dtype=torch.float64, device="cpu")
    for first, cosines in similar(rows[some], rows):
        itself = some - first
        here = (itself >= 0) & (itself < cosines.shape[1])
        cosines[here, itself[here]] = torch.nan
        top = cosines.nan_to_num_(-1.0).max(dim=1)
        better = top.values > best
        where[better] = top.indices[better] + first
        best[better] = top.values[better]
    unknown = rows[some].isnan().any(dim=1)
    return where, best.clamp(min=0.0).masked_fill(unknown, torch.nan)


def unknown_rows(rows: Float[Tensor, "vec d"]) -> Int[Tensor, " some"]:
    """Those that hold a NaN."""
    # A row's least number is NaN where any is.
    odd = [part.amin(dim=1).isnan() for part in rows.split(BLOCK) if part.numel()]
    return torch.cat(odd or [rows.new_empty(0, dtype=torch.bool)]).nonzero().flatten()


def distinct_rows(vectors: Float[Tensor, "vec d"], threshold: float | int) -> list[int]:
    """Greedily, in order: the rows whose |cosine| with every row kept so far is below
    `threshold`."""
    rows: list[int] = []
    for first in range(0, len(vectors), BLOCK):
        own = _unit(vectors[first : first + BLOCK])
        left = torch.arange(first, first + len(own), device="cpu")
        for begin in range(0, len(rows), BLOCK):
            free = ~_like_any(own, _unit(vectors[rows[begin : begin + BLOCK]]), threshold)
            own, left = own[free], left[free]
        rows += left[_first_ones(own, threshold)].tolist()
    return rows


def _first_ones(own: Float[Tensor, "vec d"], threshold: float | int) -> list[int]:
    """`distinct_rows` of one block of unit rows."""
    rows: list[int] = []
    for first in range(0, len(own), _FEW):
        few = own[first : first + _FEW]
        free = ~_like_any(few, own[rows], threshold)
        near = (~((few @ few.T).abs_() < threshold)).numpy()
        for row in free.nonzero().flatten().tolist():
            free[row] = not (near[row, :row] & free.numpy()[:row]).any()
        rows += (free.nonzero().flatten() + first).tolist()
    return rows


def _like_any(
    own: Float[Tensor, "some d"], others: Float[Tensor, "vec d"], threshold: float | int
) -> Bool[Tensor, " some"]:
    """Whether a unit row is like one of the others; NaN is. In single precision, which is twice as
    fast, and again in double for the rows that it cannot decide."""
    if len(others) == 0:
        return torch.zeros(len(own), dtype=torch.bool, device="cpu")
    # A product of two unit rows of d numbers is off by (d + 2) eps / 2 at most; twice that is safe.
    slack = (own.shape[1] + 2) * torch.finfo(torch.float32).eps
    top = (own.float() @ others.float().T).abs_().amax(dim=1).double()
    near = top >= threshold
    unsure = ~((top - threshold).abs() > slack)
    if bool(unsure.any()):
        near[unsure] = ~((own[unsure] @ others.T).abs_().amax(dim=1) < threshold)
    return near


def _unit(rows: Float[Tensor, "vec d"]) -> Float[Tensor, "vec d"]:
    return torch.nn.functional.normalize(rows.double(), dim=1)
