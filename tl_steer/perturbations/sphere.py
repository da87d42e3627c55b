"""The geometry that all methods share: vectors of one norm, tangents, and keeping many apart.

Rows are vectors throughout: `[vec d]`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import TooLargeError

_MOST = 2**33  # numbers


def to_sphere(vectors: Float[Tensor, "vec d"], radius: float | int) -> Float[Tensor, "vec d"]:
    """Scale every row to norm `radius`. A zero row stays zero."""
    return radius * torch.nn.functional.normalize(vectors, dim=1)


def random_on_sphere(
    n: int, d: int, *, radius: float | int, generator: torch.Generator
) -> Float[Tensor, "vec d"]:
    """`n` points drawn uniformly from the sphere of that radius; drawn on the CPU, so that a seed
    gives the same vectors on every device.

    Raises:
        TooLargeError: they would fill more than 32 GiB.
    """
    if n * d > _MOST:
        raise TooLargeError(f"{n} random vectors of width {d} would fill more than 32 GiB.")
    return to_sphere(
        torch.randn(n, d, generator=generator, dtype=torch.float32, device="cpu"), radius
    )


def to_tangent(
    gradient: Float[Tensor, "vec d"], vectors: Float[Tensor, "vec d"]
) -> Float[Tensor, "vec d"]:
    """Remove from each gradient row what points along its own vector."""
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return gradient - (gradient * unit).sum(dim=1, keepdim=True) * unit


def spread_apart(vectors: Float[Tensor, "vec d"], share: float | int) -> Float[Tensor, "vec d"]:
    """Take from each row the `share` of it that lies in the span of the rows before it.

    With G = QR (columns are rows of `vectors`), R above its diagonal is scaled by 1 - share: 0
    changes nothing but the scale, 1 is Gram-Schmidt, in the rows' order. Between the two, the first
    rows stay as
    they are and later ones turn towards what the earlier ones have left. Rows come back with unit
    norm. More rows than dimensions are fine below 1; at 1 those beyond the dimension would vanish.
    """
    unit = torch.nn.functional.normalize(vectors, dim=1)
    if share == 0 or len(vectors) == 1:
        return unit
    q, r = torch.linalg.qr(unit.T)
    scaled = (1 - share) * r + share * torch.triu(torch.tril(r))
    return torch.nn.functional.normalize((q @ scaled).T, dim=1)


def orthonormal_rows(vectors: Float[Tensor, "vec d"]) -> Float[Tensor, "vec d"]:
    """Gram-Schmidt in the rows' order, each row staying on its own side (QR leaves signs free)."""
    q, r = torch.linalg.qr(vectors.T)
    # Not `where` between two numbers: that has the global default dtype.
    sides = torch.ones_like(r.diagonal()).masked_fill(r.diagonal() < 0, -1.0)
    rows: Tensor = (q * sides).T
    return rows


def softly_apart(
    vectors: Float[Tensor, "vec d"],
    weights: Float[Tensor, " vec"],
    *,
    temperature: float | int = 1.0,
) -> Float[Tensor, "vec d"]:
    r"""Soft orthogonalisation: from each row take the average of the rows most like it.

    $$v_j \leftarrow v_j - \sum_{i \ne j} v_i\,
      \mathrm{softmax}_i\big(\langle v_i, v_j\rangle / T + \log w_i\big)$$

    then back to unit norm. Works for more rows than dimensions. A low temperature removes the one
    nearest row, a high one the (weighted) mean of all. Rows of weight 0 push nobody away.
    Source: CPE (arXiv 2606.29604), as quoted by others; the paper itself could not be consulted.
    """
    unit = torch.nn.functional.normalize(vectors, dim=1)
    if len(unit) == 1:
        return unit
    logits = unit @ unit.T / temperature + weights.log()[:, None]
    logits.fill_diagonal_(-torch.inf)
    share = torch.softmax(logits, dim=0).nan_to_num(0.0)
    return torch.nn.functional.normalize(unit - share.T @ unit, dim=1)


def cosines(vectors: Float[Tensor, "vec d"]) -> Float[Tensor, "vec vec"]:
    """Cosine of every pair of rows.

    Raises:
        TooLargeError: they would fill more than 32 GiB.
    """
    n = len(vectors)
    if n * n > _MOST:
        raise TooLargeError(
            f"The cosines of all pairs of {n} vectors would fill more than 32 GiB: choose fewer."
        )
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return unit @ unit.T
