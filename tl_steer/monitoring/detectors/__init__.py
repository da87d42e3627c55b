"""Scores on activations: what compares a token with vectors and with clean tokens.

Tensors in, tensors out; no model. Imports `errors` and `files`.
"""

from tl_steer.monitoring.detectors.detector import (
    Detector,
    Examples,
    LikelihoodRatio,
    LocalMatchedFilter,
    Mahalanobis,
    MatchedFilter,
    Neighbours,
    Outlier,
    Probes,
    RawCosine,
    Recurrence,
    Reference,
    RelativeMahalanobis,
    Score,
    Search,
    Unexplained,
    WhitenedCosine,
)
from tl_steer.monitoring.detectors.fitted import FITTED, Affine, Cosines, Energy, Mapped, Residual
from tl_steer.monitoring.detectors.gaussian import Gaussian, fit_gaussian

__all__ = [
    "FITTED",
    "Affine",
    "Cosines",
    "Detector",
    "Energy",
    "Examples",
    "Gaussian",
    "LikelihoodRatio",
    "LocalMatchedFilter",
    "Mahalanobis",
    "Mapped",
    "MatchedFilter",
    "Neighbours",
    "Outlier",
    "Probes",
    "RawCosine",
    "Recurrence",
    "Reference",
    "RelativeMahalanobis",
    "Residual",
    "Score",
    "Search",
    "Unexplained",
    "WhitenedCosine",
    "fit_gaussian",
]
