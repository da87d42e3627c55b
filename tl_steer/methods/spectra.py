"""Singular vectors of differences, as far as they are more than rounding."""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.perturbations.sphere import orthonormal_rows

# Up to this many rows or columns all singular vectors take under a second.
_SMALL = 1024
_PASSES, _SPARE = 6, 16
_DEPENDENT = 1e-4


def top_right(
    matrix: Float[Tensor, "m d"], most: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
    """The largest singular values and their right singular vectors, as rows.

    Wide matrices go by randomised subspace iteration (Halko, Martinsson and Tropp 2011, algorithm
    4.4, with random numbers of its own): six passes with sixteen spare directions.
    """
    if min(matrix.shape) > max(_SMALL, most + _SPARE):
        matrix, basis = _within(matrix, most + _SPARE)
    else:
        basis = None
    _, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values, right = values[:most].to(matrix), right[:most].to(matrix)
    return values, right if basis is None else right @ basis


def _within(matrix: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The matrix within the span of its top right singular vectors, roughly, and that span."""
    generator = torch.Generator().manual_seed(size)
    shape = (size, len(matrix))
    rows = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(matrix)
    basis = orthonormal_rows(rows @ matrix)
    for _ in range(_PASSES):
        basis = orthonormal_rows(orthonormal_rows(basis @ matrix.T) @ matrix)
    return matrix @ basis.T, basis


def rounding(like: Tensor) -> float:
    r"""What the largest singular value of a difference of two such matrices may be where nothing
    but rounding differs: for independent errors of relative size eps it is about
    $\epsilon\,\|W\|_F\,(1/\sqrt m + 1/\sqrt d)$ (its expectation for a random matrix)."""
    m, d = like.shape
    size = float(like.float().norm() * (m**-0.5 + d**-0.5))
    return 2 * torch.finfo(like.dtype).eps * size


def independent_rows(vectors: Float[Tensor, "vec d"]) -> Float[Tensor, "k d"]:
    """Orthonormal rows with the span of `vectors`, those that are nearly in it already left out."""
    _, values, right = torch.linalg.svd(vectors.double(), full_matrices=False)
    rows: Tensor = right[values > _DEPENDENT * values[0]].to(vectors)
    return rows
