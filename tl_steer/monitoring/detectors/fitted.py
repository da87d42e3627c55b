"""Fitted detectors: frozen records of tensors, from activations `[token d]` to scores `[token m]`.

They come out of scores (`detector.py`), and a monitor's file can hold them.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.monitoring.detectors.gaussian import Gaussian
from tl_steer.monitoring.detectors.neighbourhood import LocalEnergy, LocalFilter
from tl_steer.monitoring.detectors.peaks import Map, Peak, Peaking, product, unit_of
from tl_steer.monitoring.detectors.registry import register

_NUMBERS = 1 << 24  # products of tokens with examples that are in memory at a time
_GROUP = 32  # directions of a search whose best are compared first


def _pieces(activations: Float[Tensor, "token d"], columns: int) -> tuple[Tensor, ...]:
    """Some tokens at a time: a vector has many examples, and a product with each is kept."""
    parts: tuple[Tensor, ...] = activations.split(max(1, _NUMBERS // columns))
    return parts


def _lengths(rows: Float[Tensor, "token d"]) -> Float[Tensor, "token 1"]:
    """What makes them unit vectors; NaN where a square overflows, or every cosine would be 0 and a
    broken activation look clean."""
    lengths: Tensor = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return lengths.masked_fill(lengths.isinf(), math.nan)


@dataclass(frozen=True, eq=False)
class Affine(Peaking):
    """h M + b: one column per vector."""

    weights: Float[Tensor, "d m"]
    bias: Float[Tensor, " m"]

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token m"]:
        return torch.addmm(self.bias, activations, self.weights)

    def peak(self, shift: Float[Tensor, " m"], inverse: Float[Tensor, " m"]) -> Peak:
        own = Map(self.weights * inverse, (self.bias - shift) * inverse)
        return Peak(lambda _, mapped: (mapped.amax(dim=1),), (own,))


@dataclass(frozen=True, eq=False)
class Mapped(ABC):
    """A detector that looks at activations through one affine map, h M + b.

    Maps are megabytes, and reading them from memory is most of what a token costs; where several
    detectors have one and the same, `tl_steer.monitoring.reader.Phase` uses it once for all.
    """

    weights: Float[Tensor, "d r"]
    bias: Float[Tensor, " r"]

    @property
    def map(self) -> Map:
        return Map(self.weights, self.bias)

    def mapped(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token r"]:
        return torch.addmm(self.bias, activations, self.weights)

    @abstractmethod
    def of(self, mapped: Float[Tensor, "token r"]) -> Float[Tensor, "token m"]:
        """The scores, from mapped activations."""

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token m"]:
        return self.of(self.mapped(activations))


@dataclass(frozen=True, eq=False)
class Cosines(Mapped, Peaking):
    """Cosines of the mapped activation with m directions."""

    directions: Float[Tensor, "r m"]

    def of(self, mapped: Float[Tensor, "token r"]) -> Float[Tensor, "token m"]:
        return torch.div(mapped @ self.directions, _lengths(mapped))

    def peak(self, shift: Float[Tensor, " m"], inverse: Float[Tensor, " m"]) -> Peak:
        """Past the mapped activation, of which only the length is needed, by one map for both."""
        scaled, offset = self.directions * inverse, -shift * inverse
        direct = Map(product(self.weights, scaled), product(self.bias[None], scaled)[0])

        def largest(_: Tensor, mapped: Tensor, along: Tensor) -> tuple[Tensor, ...]:
            unit, energy = unit_of(mapped)
            return torch.addcmul(offset, along, unit).amax(dim=1), energy

        return Peak(largest, (self.map, direct))


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
        change = activations - self.centre
        unit = change / _lengths(change)
        columns = self.examples.reshape(-1, d).float().T
        parts = [
            (part @ columns).clamp_min(0).square().unflatten(1, (vec, prompt, example))
            .amax(dim=3).mean(dim=2)
            for part in _pieces(unit, columns.shape[1])
        ]  # fmt: skip
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Energy(Mapped):
    """|h M + b|², a single column."""

    def of(self, mapped: Float[Tensor, "token r"]) -> Float[Tensor, "token 1"]:
        return mapped.square().sum(dim=1, keepdim=True)

    @classmethod
    def around(cls, clean: Gaussian) -> "Energy":
        """In white coordinates."""
        return cls(clean.whitener, -clean.mean @ clean.whitener)


@dataclass(frozen=True, eq=False)
class Residual(Mapped):
    """The energy behind the first `rank` columns of h M + b, a single column."""

    rank: int

    def of(self, mapped: Float[Tensor, "token r"]) -> Float[Tensor, "token 1"]:
        return mapped[:, self.rank :].square().sum(dim=1, keepdim=True)

    def explained(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, " token"]:
        """The share of the energy that lies in the first columns."""
        energy = self.mapped(activations).square()
        return energy[:, : self.rank].sum(dim=1) / energy.sum(dim=1).clamp_min(1e-30)


@dataclass(frozen=True, eq=False)
class Searched(Mapped, Peaking):
    """Cosines of the mapped activation with very many directions: all of them in a sketch of the
    first few dimensions, and the best `candidates` exactly. The others get minus infinity."""

    sketches: Float[Tensor, "few m"]
    directions: Float[Tensor, "m r"]
    candidates: int

    def of(self, mapped: Float[Tensor, "token r"]) -> Float[Tensor, "token m"]:
        unit = mapped / _lengths(mapped)
        coarse = unit[:, : len(self.sketches)] @ self.sketches
        likely = coarse.topk(self.candidates, dim=1).indices
        exact = torch.einsum("tcd,td->tc", self.directions[likely], unit)
        return torch.full_like(coarse, -math.inf).scatter_(1, likely, exact)

    def peak(self, shift: Float[Tensor, " m"], inverse: Float[Tensor, " m"]) -> Peak:
        def largest(_: Tensor, mapped: Tensor) -> tuple[Tensor, ...]:
            unit, energy = unit_of(mapped)
            likely = _best(mapped[:, : len(self.sketches)] @ self.sketches, self.candidates)
            exact = torch.bmm(self.directions[likely], mapped[:, :, None])[:, :, 0] * unit
            return ((exact - shift[likely]) * inverse[likely]).amax(dim=1), energy

        return Peak(largest, (self.map,))


def _best(scores: Float[Tensor, "token m"], k: int) -> Int[Tensor, "token k"]:
    """`topk` of very many: the k largest are in the k groups with the largest best, so only these
    and what fills no group are looked at."""
    groups = scores.shape[1] // _GROUP
    if groups <= k:
        return scores.topk(k, dim=1).indices
    grouped = scores[:, : groups * _GROUP].unflatten(1, (groups, _GROUP))
    chosen = grouped.amax(dim=2).topk(k, dim=1).indices
    places = torch.arange(groups * _GROUP, scores.shape[1], device=scores.device)
    within = torch.arange(_GROUP, device=scores.device)
    there = (chosen[:, :, None] * _GROUP + within).flatten(1)
    there = torch.cat([there, places.expand(len(scores), -1)], dim=1)
    return there.gather(1, scores.gather(1, there).topk(k, dim=1).indices)


for _kind in (
    Affine,
    Cosines,
    SharedEnergy,
    Searched,
    Energy,
    Residual,
    LocalEnergy,
    LocalFilter,
):
    register(_kind.__name__)(_kind)
