"""Scores on activations: what compares a token with vectors and with clean tokens.

Tensors in, tensors out; no model. Imports `errors` and `files`.
"""

from tl_steer.monitoring.detectors.detector import (
    Detector as Detector,
    LocalMatchedFilter as LocalMatchedFilter,
    Mahalanobis as Mahalanobis,
    MatchedFilter as MatchedFilter,
    Outlier as Outlier,
    Recurrence as Recurrence,
    Reference as Reference,
    Score as Score,
    Search as Search,
    Unexplained as Unexplained,
    WhitenedCosine as WhitenedCosine,
)
from tl_steer.monitoring.detectors.fitted import (
    Affine as Affine,
    Cosines as Cosines,
    Energy as Energy,
    Mapped as Mapped,
    Residual as Residual,
    Searched as Searched,
    SharedEnergy as SharedEnergy,
)
from tl_steer.monitoring.detectors.gaussian import (
    Gaussian as Gaussian,
    fit_gaussian as fit_gaussian,
)
from tl_steer.monitoring.detectors.neighbourhood import (
    LocalEnergy as LocalEnergy,
    LocalFilter as LocalFilter,
)
from tl_steer.monitoring.detectors.registry import FITTED as FITTED, register as register
