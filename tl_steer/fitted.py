"""Fitted detectors: frozen records of tensors, from activations `[token d]` to scores `[token m]`.

They come out of scores (`tl_steer.detector`), and a monitor's file can hold them.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tl_steer.gaussian import Gaussian
from tl_steer.neighbourhood import LocalEnergy, LocalFilter
from tl_steer.scores import neighbour_distance

_NUMBERS = 1 << 24  # products of tokens with examples that are in memory at a time


def _pieces(activations: Float[Tensor, "token d"], columns: int) -> tuple[Tensor, ...]:
    """Some tokens at a time: a vector has many examples, and a product with each is kept."""
    parts: tuple[Tensor, ...] = activations.split(max(1, _NUMBERS // columns))
    return parts


@dataclass(frozen=True, eq=False)
class Affine:
    """h M + b: one column per vector."""

    weights: Float[Tensor, "d m"]
    bias: Float[Tensor, " m"]

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token m"]:
        return torch.addmm(self.bias, activations, self.weights)


@dataclass(frozen=True, eq=False)
class Cosines:
    """Cosines with m directions after an affine map, both in one matrix product: the first m
    columns are products with the directions, the other d the mapped activation itself."""

    stacked: Float[Tensor, "d m_and_d"]
    bias: Float[Tensor, " m_and_d"]

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token m"]:
        both = torch.addmm(self.bias, activations, self.stacked)
        m = self.stacked.shape[1] - self.stacked.shape[0]
        cosines: Tensor = both[:, :m] / both[:, m:].norm(dim=1, keepdim=True).clamp_min(1e-12)
        return cosines

    @classmethod
    def of(cls, centre: Tensor, map_: Tensor, directions: Tensor) -> "Cosines":
        """Of (h - centre) map_ with the rows of `directions`."""
        unit = normalize(directions, dim=1)
        stacked = torch.cat([map_ @ unit.T, map_], dim=1)
        return cls(stacked, -centre @ stacked)


@dataclass(frozen=True, eq=False)
class BestCosines(Cosines):
    """The largest of every `each` cosines in a row: one column per vector with so many examples."""

    each: int

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token m"]:
        parts = [
            Cosines.__call__(self, part).unflatten(1, (-1, self.each)).amax(dim=2)
            for part in _pieces(activations, self.stacked.shape[1])
        ]
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class SharedEnergy:
    r"""$\frac{1}{P} \sum_p \max_t \cos^2_+(h - c, e_{pt})$: one column per vector with P prompts of
    so many example directions e each. Zero where the angle is not acute.

    Examples are kept in half precision, and widened when they are compared with.
    """

    centre: Float[Tensor, " d"]
    examples: Float[Tensor, "vec prompt example d"]

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token vec"]:
        vec, prompt, example, d = self.examples.shape
        unit = normalize(activations - self.centre, dim=1)
        columns = self.examples.reshape(-1, d).float().T
        parts = [
            (part @ columns).clamp_min(0).square().unflatten(1, (vec, prompt, example))
            .amax(dim=3).mean(dim=2)
            for part in _pieces(unit, columns.shape[1])
        ]  # fmt: skip
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Energy:
    """|h M + b|², a single column."""

    weights: Float[Tensor, "d r"]
    bias: Float[Tensor, " r"]

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token 1"]:
        mapped = torch.addmm(self.bias, activations, self.weights)
        return mapped.square().sum(dim=1, keepdim=True)

    @classmethod
    def of(cls, clean: Gaussian) -> "Energy":
        """In white coordinates."""
        return cls(clean.whitener, -clean.mean @ clean.whitener)


@dataclass(frozen=True, eq=False)
class Residual:
    """The energy behind the first `rank` columns of h M + b, a single column."""

    weights: Float[Tensor, "d d"]
    bias: Float[Tensor, " d"]
    rank: int

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token 1"]:
        mapped = torch.addmm(self.bias, activations, self.weights)
        return mapped[:, self.rank :].square().sum(dim=1, keepdim=True)

    def explained(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, " token"]:
        """The share of the energy that lies in the first columns."""
        energy = torch.addmm(self.bias, activations, self.weights).square()
        return energy[:, : self.rank].sum(dim=1) / energy.sum(dim=1).clamp_min(1e-30)


@dataclass(frozen=True, eq=False)
class EnergyDifference:
    """One energy less another."""

    weights: Float[Tensor, "d r"]
    bias: Float[Tensor, " r"]
    minus_weights: Float[Tensor, "d r2"]
    minus_bias: Float[Tensor, " r2"]

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token 1"]:
        here = Energy(self.weights, self.bias)(activations)
        return here - Energy(self.minus_weights, self.minus_bias)(activations)


@dataclass(frozen=True, eq=False)
class Nearest:
    """Distance to the k-th nearest of some clean activations."""

    reference: Float[Tensor, "n d"]
    k: int

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token 1"]:
        return neighbour_distance(activations, self.reference, k=self.k)[:, None]


@dataclass(frozen=True, eq=False)
class Searched:
    """Cosines with very many directions after an affine map: all of them in a sketch of few
    dimensions, and the best `candidates` exactly. The others get minus infinity."""

    weights: Float[Tensor, "d d"]
    bias: Float[Tensor, " d"]
    axes: Float[Tensor, "d r"]
    sketches: Float[Tensor, "r m"]
    directions: Float[Tensor, "m d"]
    candidates: int

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token m"]:
        mapped = normalize(torch.addmm(self.bias, activations, self.weights), dim=1)
        coarse = (mapped @ self.axes) @ self.sketches
        likely = coarse.topk(self.candidates, dim=1).indices
        exact = torch.einsum("tcd,td->tc", self.directions[likely], mapped)
        return torch.full_like(coarse, -math.inf).scatter_(1, likely, exact)


# What a monitor's file can hold, by name.
FITTED: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        Affine,
        Cosines,
        BestCosines,
        SharedEnergy,
        Searched,
        Energy,
        Residual,
        EnergyDifference,
        Nearest,
        LocalEnergy,
        LocalFilter,
    )
}
