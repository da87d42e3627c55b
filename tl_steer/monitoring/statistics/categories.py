r"""Categories of requests, so that sums are compared with sums and prose with prose.

What is unremarkable in one kind of request is unheard of in another, and one threshold for all is
set by those that vary most: a behaviour that stands out among sums drowns among jokes. So every
request is compared with the calibration requests of its own category alone (Mondrian conformal
prediction: Vovk, Gammerman and Shafer 2005, section 4.5). False alarms are then as rare as asked
for within each category, under any rule that looks at nothing but the request and was settled
before calibration.

The rule here looks at prompts' ends. With $\hat h$ the direction of a prompt end's deviation from
the clean mean, categories are what k-means finds among the $\hat h$ of clean requests that
detectors are fitted on, the smallest cluster joined with the nearest until every one can be
expected to have enough calibration requests. Directions, because a few prompts that deviate far
would be clusters of their own; raw coordinates and not white ones, because white ones have the
differences between kinds divided out of them.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn.functional import normalize

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields

_STARTS = 20


@dataclass(frozen=True, eq=False)
class Categories:
    """Which category a request is of, by its prompt's end: that of the nearest centre.

    Attributes:
        mean: the clean mean, which deviations are from.
        centres: in directions of deviation; a category may have several.
        members: the category of each centre, counted from 0.
    """

    mean: Float[Tensor, " d"]
    centres: Float[Tensor, "centre d"]
    members: Int[Tensor, " centre"]

    def __len__(self) -> int:
        return int(self.members.max()) + 1

    def of(self, ends: Float[Tensor, "request d"]) -> Int[Tensor, " request"]:
        near = normalize(ends.float() - self.mean, dim=1) @ self.centres.T
        return self.members[(near - self.centres.square().sum(dim=1) / 2).argmax(dim=1)]


# Prompts' ends of the clean requests that detectors are fitted on, and how many others calibrate.
Grouping: TypeAlias = Callable[[Float[Tensor, "request d"], int], Categories]


@typed_fields
@dataclass(frozen=True)
class Clusters:
    """Categories by k-means.

    Args:
        smallest: how many calibration requests every category must be expected to have. Alarms at
            1% need 99, and of 130 expected ones hardly ever fewer are there.
        most: clusters before any are joined.
        seed: of k-means' starts.

    Wrong where clean prompts come from one program with one template: clusters are then of its
    fillers, and nothing is gained for the smaller calibration sets.
    """

    smallest: int = 130
    most: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.smallest < 1 or self.most < 1:
            raise SettingError(f"{self}: a category has at least one request, and there is one.")

    def __call__(self, ends: Float[Tensor, "request d"], calibrating: int) -> Categories:
        mean = ends.float().mean(dim=0)
        centres, sizes = self._clusters(normalize(ends.float() - mean, dim=1))
        members = joined(centres, sizes, self.smallest * len(ends) / calibrating)
        return Categories(mean, centres, members)

    def _clusters(
        self, directions: Float[Tensor, "request d"]
    ) -> tuple[Float[Tensor, "centre d"], Int[Tensor, " centre"]]:
        """Centres, and how many are near each; the closest fit of some starts."""
        points, found = directions.double().numpy(), []
        k = min(self.most, len(points))
        for start in range(_STARTS):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a cluster without members joins another
                centres, own = kmeans2(points, k, minit="points", seed=self.seed + start)
            found.append((float(((points - centres[own]) ** 2).sum()), start, centres, own))
        _, _, centres, own = min(found, key=lambda each: each[:2])
        sizes = torch.bincount(torch.from_numpy(own).long(), minlength=k)
        return torch.from_numpy(centres).float(), sizes


def joined(
    centres: Float[Tensor, "centre d"], sizes: Int[Tensor, " centre"], least: float | int
) -> Int[Tensor, " centre"]:
    """Clusters in categories of at least so many: the smallest category joins the one whose mean is
    nearest, until all are large enough or only one is left."""
    held = [[i] for i in range(len(sizes))]
    counts, means = sizes.tolist(), list(centres.double())
    while len(held) > 1 and min(counts) < least:
        small = counts.index(min(counts))
        members, count, mean = held.pop(small), counts.pop(small), means.pop(small)
        into = min(range(len(held)), key=lambda j: float((means[j] - mean).norm()))
        together = counts[into] + count
        means[into] = (counts[into] * means[into] + count * mean) / together
        held[into], counts[into] = held[into] + members, together
    category = torch.empty(len(sizes), dtype=torch.long, device="cpu")
    for i, members in enumerate(held):
        category[members] = i
    return category
