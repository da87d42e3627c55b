"""Detectors: scores fitted to one model's clean activations, ready for one pass per token.

A *score* is any function of a `Reference` that returns a detector, and a *detector* any function
from activations `[token d]` to scores `[token m]`: one column per vector of the bank, or a single
one. Those here return frozen records of tensors, which a monitor's file can hold. Return one of
these from a function of your own and it can be saved too:

    def mean_difference(reference):
        weights = reference.responses.T
        return Affine(weights, -reference.gaussian.mean @ weights)
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tl_steer.errors import SettingError
from tl_steer.gaussian import Gaussian, fit_gaussian
from tl_steer.probes import self_labelled
from tl_steer.scores import neighbour_distance, subspace

Detector: TypeAlias = Callable[[Float[Tensor, "token d"]], Float[Tensor, "token m"]]


@dataclass(frozen=True, eq=False)
class Reference:
    """All that a score may look at; no anomaly is among it.

    Attributes:
        clean: activations of clean tokens of the kind that will be scored.
        responses: mean effect of every vector on such tokens.
        steered: activations of such tokens under every vector.
        background: activations of clean tokens of all kinds.
    """

    clean: Float[Tensor, "n d"]
    responses: Float[Tensor, "vec d"]
    steered: Float[Tensor, "vec sample d"]
    background: Float[Tensor, "all d"]

    @functools.cached_property
    def gaussian(self) -> Gaussian:
        return fit_gaussian(self.clean)


Score: TypeAlias = Callable[[Reference], Detector]


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
        length = both[:, m:].norm(dim=1, keepdim=True).clamp_min(1e-12)
        return both[:, :m] / length

    @classmethod
    def of(cls, centre: Tensor, map_: Tensor, directions: Tensor) -> "Cosines":
        """Of (h - centre) map_ with the rows of `directions`."""
        unit = normalize(directions, dim=1)
        stacked = torch.cat([map_ @ unit.T, map_], dim=1)
        return cls(stacked, -centre @ stacked)


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


# What a monitor's file can hold, by name.
FITTED: dict[str, Any] = {
    cls.__name__: cls for cls in (Affine, Cosines, Energy, Residual, EnergyDifference, Nearest)
}


@dataclass(frozen=True)
class MatchedFilter:
    """`tl_steer.scores.matched_filter`."""

    def __call__(self, reference: Reference) -> Affine:
        clean = reference.gaussian
        unit = normalize(clean.whiten_change(reference.responses), dim=1)
        weights = clean.whitener @ unit.T
        return Affine(weights, -clean.mean @ weights)


@dataclass(frozen=True)
class WhitenedCosine:
    """`tl_steer.scores.whitened_cosine`."""

    def __call__(self, reference: Reference) -> Cosines:
        clean = reference.gaussian
        return Cosines.of(clean.mean, clean.whitener, clean.whiten_change(reference.responses))


@dataclass(frozen=True)
class LikelihoodRatio:
    """`tl_steer.scores.likelihood_ratio`."""

    def __call__(self, reference: Reference) -> Affine:
        clean = reference.gaussian
        white = clean.whiten_change(reference.responses)
        weights = clean.whitener @ white.T
        return Affine(weights, -clean.mean @ weights - white.square().sum(dim=1) / 2)


@dataclass(frozen=True)
class Probes:
    """`tl_steer.probes.self_labelled`; `groups` names the behaviour of each vector."""

    groups: tuple[str, ...] | None = None

    def __call__(self, reference: Reference) -> Affine:
        weights, bias = self_labelled(reference.steered, reference.clean, groups=self.groups)
        return Affine(weights.T.contiguous(), bias)


@dataclass(frozen=True)
class RawCosine:
    """`tl_steer.scores.raw_cosine`, a baseline."""

    def __call__(self, reference: Reference) -> Cosines:
        mean = reference.clean.mean(dim=0)
        return Cosines.of(mean, torch.eye(len(mean)), reference.responses)


@dataclass(frozen=True)
class Unexplained:
    """The energy that the bank does not explain (`tl_steer.scores.energy_split`).

    Args:
        rank: of what counts as explained; `None` is a quarter of d_model, or the whole bank where
            that is smaller. Directions beyond the bank's own rank explain nothing.
    """

    rank: int | None = None

    def __call__(self, reference: Reference) -> Residual:
        vec, d = reference.responses.shape
        rank = max(1, min(vec, d // 4)) if self.rank is None else self.rank
        if rank >= d:
            raise SettingError(f"rank={rank} of {d} leaves nothing unexplained.")
        clean = reference.gaussian
        known = subspace(reference.responses, clean, rank=rank).double()
        # The first columns of Q span the responses, the others the rest.
        axes = torch.linalg.qr(known.T, mode="complete").Q.float()
        weights = clean.whitener @ axes
        return Residual(weights, -clean.mean @ weights, rank)


@dataclass(frozen=True)
class Mahalanobis:
    """`tl_steer.scores.mahalanobis`, a baseline."""

    def __call__(self, reference: Reference) -> Energy:
        return Energy.of(reference.gaussian)


@dataclass(frozen=True)
class RelativeMahalanobis:
    """`tl_steer.scores.relative_mahalanobis`, a baseline."""

    def __call__(self, reference: Reference) -> EnergyDifference:
        near, far = Energy.of(reference.gaussian), Energy.of(fit_gaussian(reference.background))
        return EnergyDifference(near.weights, near.bias, far.weights, far.bias)


@dataclass(frozen=True)
class Neighbours:
    """`tl_steer.scores.neighbour_distance`, a baseline."""

    k: int = 5

    def __call__(self, reference: Reference) -> Nearest:
        return Nearest(normalize(reference.clean, dim=1), self.k)
