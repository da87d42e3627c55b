r"""Clean activations as one Gaussian: mean, shrunk covariance, and the map that makes it white.

$\hat\Sigma = (1-s) S + s \frac{\mathrm{tr} S}{d} I$ with the s of Ledoit and Wolf 2004 ("A
well-conditioned estimator for large-dimensional covariance matrices"), which needs no tuning and
fewer samples than dimensions. Note the $\mathrm{tr} S / d$: shrinking towards $\mathrm{tr} S$
instead, as some published detectors do, leaves hardly more than a Euclidean distance.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.files.signatures import checked


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of activations; float32, computed in float64.

    Attributes:
        mean: of the samples.
        whitener: W, symmetric, with W W = inverse covariance; (h - mean) W is white.
        shrinkage: s.
    """

    mean: Float[Tensor, " d"]
    whitener: Float[Tensor, "d d"]
    shrinkage: float

    def whiten(self, activations: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """Coordinates in which clean activations have mean 0 and the identity as covariance."""
        return (activations - self.mean) @ self.whitener

    def whiten_change(self, responses: Float[Tensor, "*any d"]) -> Float[Tensor, "*any d"]:
        """The same for differences of activations, which have no mean to take off."""
        return responses @ self.whitener


@checked
def fit_gaussian(samples: Float[Tensor, "n d"]) -> Gaussian:
    """The Gaussian of some clean activations.

    Massive activations (the first token's, usually) must be left out: a few of them fill the whole
    covariance.

    Raises:
        SettingError: fewer than two samples, or samples that are all equal.
        NotFiniteError: NaN or infinity.
    """
    return fit_around(samples.double().mean(dim=0), samples)


def fit_around(centre: Float[Tensor, " d"], samples: Float[Tensor, "n d"]) -> Gaussian:
    """The Gaussian of a given mean.

    Raises:
        SettingError, NotFiniteError: as `fit_gaussian`.
    """
    if len(samples) < 2:
        raise SettingError(f"{len(samples)} clean activations; a covariance needs two at least.")
    if not bool(samples.isfinite().all()):
        raise NotFiniteError("NaN or infinity among the clean activations.")
    covariance, shrinkage = ledoit_wolf(samples.double() - centre)
    values, vectors = torch.linalg.eigh(covariance)
    if float(values.max()) <= 0:
        raise SettingError("All clean activations are equal; they have no covariance.")
    floor = float(values.max()) * 1e-12
    whitener = (vectors * values.clamp_min(floor).rsqrt()) @ vectors.T
    return Gaussian(centre.float(), whitener.float(), shrinkage)


def ledoit_wolf(centred: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d d"], float]:
    """The shrunk covariance of centred samples, and how much it was shrunk (0 to 1)."""
    n, d = centred.shape
    sample = centred.T @ centred / n
    scale = sample.diagonal().mean()
    target = scale * torch.eye(d, dtype=sample.dtype, device=sample.device)
    # d times the paper's norms throughout; only their ratio counts.
    distance = (sample - target).square().sum()
    spread = (centred.square().sum(dim=1).square().mean() - sample.square().sum()) / n
    shrinkage = 1.0 if float(distance) == 0 else float((spread / distance).clamp(0, 1))
    return (1 - shrinkage) * sample + shrinkage * target, shrinkage
