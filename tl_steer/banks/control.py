"""The controls for a bank: random vectors of the same lengths at the same place, and none."""

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed
from tl_steer.perturbations.additive import Additive

_CONTROL_STREAM = 0x636F6E74
_MOST = 2**33  # numbers
# Of as few as a small bank has, one in a few is as high as the highest by chance.
_FEWEST = 100


@typed
def random_bank(like: Bank, *, n: int | None = None, seed: int = 0) -> Bank:
    """The control: random vectors at the same site, as long as the bank's row by row (over and over
    where n is larger). Responses and objectives are NaN.

    Raises:
        SettingError: `n` is not positive, or more than memory holds.
    """
    n = len(like) if n is None else n
    if not 1 <= n <= _MOST // like.vectors.shape[1]:
        raise SettingError(f"n={n} random vectors: expected at least 1, and what memory holds.")
    # Not the stream that `elicit` draws its starting points from, whatever the seed.
    generator = torch.Generator().manual_seed(seed + _CONTROL_STREAM)
    drawn = like.perturbation().redrawn(n, generator=generator)
    lengths = like.perturbation().lengths()
    if len(like) and not bool((lengths == like.radius).all()):  # a merged bank's have several
        each = lengths[torch.arange(n, device="cpu") % len(like)]
        drawn = drawn.scaled(each / like.radius)
    vectors = drawn.pack()
    return dataclasses.replace(
        like,
        vectors=vectors,
        responses=torch.full((n, like.target.width), math.nan, dtype=torch.float32, device="cpu"),
        objective=torch.full((n,), math.nan, dtype=torch.float32, device="cpu"),
        labels=("random",) * n,
        comments=(),
        numbers=(),
        scores={},
        provenance=dataclasses.replace(like.provenance, method="random", settings={}, seed=seed),
    )


def chance_vectors(bank: Bank, *, seed: int) -> Float[Tensor, "vec d"]:
    """What readings of a bank's vectors are held against: those of `random_bank`, as many as the
    bank's, and a hundred at least."""
    return random_bank(bank, n=max(len(bank), _FEWEST), seed=seed).vectors


def unsteered_bank(like: Bank) -> Bank:
    """One vector of zeros at the bank's source, which is the unsteered model, for whatever takes
    a bank."""
    zero = torch.zeros(1, like.source.width, dtype=torch.float32, device="cpu")
    return dataclasses.replace(like[0], kind=Additive.kind, form={}, vectors=zero)
