r"""Detectors that compare a token with its nearest clean ones, and not with the average of all.

Clean traffic is of many kinds, and one Gaussian is as wide as all of them together: what is odd
*for a sum* is small beside the way from sums to prose. So let $N(h)$ be the k clean activations
nearest to h in direction from the clean mean, and

$$r(h) = h - \mathrm{mean}\, N(h), \qquad z(h) = r(h)\, \Sigma_r^{-1/2},$$

$\Sigma_r$ the Ledoit-Wolf covariance, around zero, of what clean activations have left when the
same is done to them. (Their mean is not taken off: that of all kinds is far for a narrow one.) With
$e(h) = |z(h)|^2$ and $\bar e(h)$ the mean of $e$ over $N(h)$,

    LocalEnergy    e / ē           is it farther from its neighbours than they are from theirs
    LocalFilter    z·u / ē^½       the same along a response u of unit length

The first is the local outlier factor of Breunig et al. 2000 (doi 10.1145/342009.335388) with means
in the place of reachability, in white coordinates.

Wrong for traffic of kinds that are not among the clean requests: where neighbours are much alike,
everything new is far. Clean tokens are left out of their own neighbourhood, other tokens of their
request are not.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tl_steer.errors import SettingError
from tl_steer.monitoring.detectors.gaussian import fit_around
from tl_steer.monitoring.detectors.peaks import Map, Peak, Peaking, product

_ROWS = 1024  # of the matrix of similarities that is in memory at a time
_LEAST = 1e-6  # of the neighbours' energy


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Clean activations, and how far each is from its own neighbours.

    Attributes:
        clean: around their mean, `centre`.
        inverse: one over their lengths.
        whitener: makes r white.
        energies: e of each.
        k: neighbours.
    """

    clean: Float[Tensor, "n d"]
    centre: Float[Tensor, " d"]
    inverse: Float[Tensor, " n"]
    whitener: Float[Tensor, "d d"]
    energies: Float[Tensor, " n"]
    k: int

    def around(
        self, activations: Float[Tensor, "token d"]
    ) -> tuple[Float[Tensor, "token d"], Float[Tensor, "token 1"]]:
        """z, and the neighbours' mean energy."""
        parts = [
            _residual(self.clean, self.inverse, some - self.centre, self.k)
            for some in activations.split(_ROWS)
        ]
        left, near = (torch.cat(part) for part in zip(*parts, strict=True))
        white = left @ self.whitener
        # An exact duplicate of clean text has neighbours without any energy.
        return white, self.energies[near].mean(dim=1, keepdim=True).clamp_min(_LEAST)


@dataclass(frozen=True, eq=False)
class LocalEnergy(Neighbourhood):
    """e / ē, a single column."""

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token 1"]:
        white, level = self.around(activations)
        return white.square().sum(dim=1, keepdim=True) / level


@dataclass(frozen=True, eq=False)
class LocalFilter(Neighbourhood, Peaking):
    """z·u / ē^½, one column per response; `directions` are the u."""

    directions: Float[Tensor, "m d"]

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token m"]:
        white, level = self.around(activations)
        return (white @ self.directions.T) / level.sqrt()

    def peak(self, shift: Float[Tensor, " m"], inverse: Float[Tensor, " m"]) -> Peak:
        """One map tells the neighbours, and one product goes from residuals past white coordinates
        to all columns."""
        # Not `self`, whose whitener may be on a device that has better use for the memory.
        clean, centre, energies, k = self.clean, self.centre, self.energies, self.k
        unit, offset = (clean * self.inverse[:, None]).T, -shift * inverse
        scaled = product(self.whitener, self.directions.T * inverse)

        def largest(activations: Tensor, similar: Tensor) -> tuple[Tensor, ...]:
            near = similar.topk(k, dim=1).indices
            level = energies[near].mean(dim=1, keepdim=True).clamp_min(_LEAST)
            left = activations - centre - clean[near].mean(dim=1)
            return (torch.addmm(offset, left * level.rsqrt(), scaled).amax(dim=1),)

        return Peak(largest, (Map(unit, -product(centre[None], unit)[0]),), centre)


def local_energy(clean: Float[Tensor, "n d"], *, k: int) -> LocalEnergy:
    """Fit e / ē to clean activations.

    Raises:
        SettingError: not more than k of them.
    """
    return LocalEnergy(**_fitted(clean, k))


def local_filter(
    clean: Float[Tensor, "n d"], responses: Float[Tensor, "m d"], *, k: int
) -> LocalFilter:
    """Fit z·u / ē^½ to clean activations and responses.

    Raises:
        SettingError: not more than k activations.
    """
    fitted = _fitted(clean, k)
    return LocalFilter(**fitted, directions=normalize(responses @ fitted["whitener"], dim=1))


def _fitted(clean: Tensor, k: int) -> dict[str, Any]:
    if not 1 <= k < len(clean):
        raise SettingError(f"k={k}: expected 1 to {len(clean) - 1}, with {len(clean)} activations.")
    centre = clean.mean(dim=0)
    centred = clean - centre
    inverse = 1 / centred.norm(dim=1).clamp_min(1e-12)
    parts = [
        _residual(centred, inverse, centred[rows], k, own=rows)
        for rows in torch.arange(len(clean), device="cpu").split(_ROWS)
    ]
    left = torch.cat([part[0] for part in parts])
    around = fit_around(torch.zeros_like(centre), left)
    return {
        "clean": centred,
        "centre": centre,
        "inverse": inverse,
        "whitener": around.whitener,
        "energies": around.whiten(left).square().sum(dim=1),
        "k": k,
    }


def _residual(
    clean: Tensor, inverse: Tensor, centred: Tensor, k: int, *, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What is left of activations, and which clean ones were taken off; `own` are their rows, if
    they are clean ones themselves."""
    similar = (centred @ clean.T) * inverse  # their own lengths change no order
    if own is not None:
        similar[torch.arange(len(own), device="cpu"), own] = -torch.inf
    near = similar.topk(k, dim=1).indices
    return centred - clean[near].mean(dim=1), near
