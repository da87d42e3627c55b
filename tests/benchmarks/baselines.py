"""Detectors that monitors are compared with: callables, which no file holds.

The Mahalanobis distance is in the package (`detector.Mahalanobis`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from tl_steer.monitoring.detectors import Cosines, Detector, Energy, Reference, fit_gaussian


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
