"""The control for a bank: random vectors of the same lengths at the same place."""

import dataclasses
import math

import torch

from tl_steer.banks.bank import Bank
from tl_steer.perturbations.additive import Additive

_CONTROL_STREAM = 0x636F6E74


def random_bank(like: Bank, *, n: int | None = None, seed: int = 0) -> Bank:
    """The control: random vectors at the same site, as long as the bank's row by row (over and over
    where n is larger). Responses and objectives are NaN."""
    n = len(like) if n is None else n
    # Not the stream that `elicit` draws its starting points from, whatever the seed.
    generator = torch.Generator().manual_seed(seed + _CONTROL_STREAM)
    drawn = like.holding(
        torch.randn(
            n, like.vectors.shape[1], generator=generator, dtype=torch.float32, device="cpu"
        )
    )
    drawn.project_()
    vectors = drawn.pack()
    if like.kind == Additive.kind:  # a merged bank's vectors have several lengths
        vectors *= (
            like.vectors.norm(dim=1)[torch.arange(n, device="cpu") % len(like), None] / like.radius
        )
    return dataclasses.replace(
        like,
        vectors=vectors,
        responses=torch.full((n, like.target.width), math.nan, dtype=torch.float32, device="cpu"),
        objective=torch.full((n,), math.nan, dtype=torch.float32, device="cpu"),
        labels=("random",) * n,
        scores={},
        provenance=dataclasses.replace(like.provenance, method="random", settings={}, seed=seed),
    )
