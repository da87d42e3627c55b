r"""Split-conformal p-values: false alarms that can be promised without a model of the scores.

Scores of `n` clean requests are kept. A new score's p-value is its rank among them,

$$p(s) = \frac{1 + \#\{i : s_i \ge s\}}{n + 1}, \qquad P(p \le \alpha) \le \alpha,$$

if the new request is exchangeable with the kept ones and was not used to fit the score (Vovk,
Gammerman and Shafer 2005; Bates et al. 2023, arXiv 2104.08279). Large scores are suspicious
throughout. Nothing holds for traffic that has moved away from the calibration requests: see
`tl_steer.monitoring.statistics.drift`.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float, Int
from scipy.special import betaincinv
from torch import Tensor

from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.files.signatures import checked


@checked
def p_values(
    calibration: Float[Tensor, " n"], scores: Float[Tensor, "*any"]
) -> Float[Tensor, "*any"]:
    """Conformal p-values in float64. Equal scores count against the request, so ties only make
    false alarms rarer than asked for.

    Raises:
        SettingError: no calibration scores.
        NotFiniteError: NaN on either side; infinities are compared like other numbers.
    """
    _refuse(calibration, scores)
    return _ranks(calibration, scores)


@checked
def mondrian_p_values(
    calibration: Float[Tensor, " n"],
    scores: Float[Tensor, " m"],
    *,
    kept: Int[Tensor, " n"],
    given: Int[Tensor, " m"],
) -> Float[Tensor, " m"]:
    """p-values among calibration scores of the same category, so that false alarms are as promised
    within each (Vovk, Gammerman and Shafer 2005, section 4.5).

    Args:
        kept, given: the categories of `calibration` and of `scores`.

    Raises:
        SettingError: a category without calibration scores.
        NotFiniteError: as `p_values`.
    """
    found = torch.ones(len(scores), dtype=torch.float64, device=scores.device)
    for category in given.unique().tolist():
        here = given == category
        found[here] = p_values(calibration[kept == category], scores[here])
    return found


@dataclass(frozen=True)
class Guarantee:
    r"""What a threshold at `alpha` on `n` calibration scores promises.

    Over calibration sets, false alarms come at a rate of at most `alpha`. Given one calibration
    set, their rate is a draw from Beta(l, n + 1 - l), $l = \lfloor\alpha (n+1)\rfloor$, where
    scores have no ties, and smaller where they have (Vovk 2012, arXiv 1209.2673).

    Raises:
        SettingError: alpha is not between 0 and 1, or below what n can resolve, 1 / (n + 1).
    """

    alpha: float
    n: int

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise SettingError(f"alpha={self.alpha}: expected a number between 0 and 1.")
        if self.allowed < 1:
            raise SettingError(
                f"alpha={self.alpha} cannot be had with {self.n} calibration requests: the "
                f"smallest p-value is 1/{self.n + 1}. Use at least {needed(self.alpha)}, or alpha "
                f"of at least {1 / (self.n + 1):.4g}."
            )

    @property
    def allowed(self) -> int:
        """l: the flagged are those that fewer than l calibration scores reach."""
        # As written: the float 0.29 times 100 is a little less than 29.
        return math.floor(Fraction(str(self.alpha)) * (self.n + 1))

    @property
    def expected(self) -> float:
        """Mean false-positive rate over calibration sets; at most alpha."""
        return self.allowed / (self.n + 1)

    def quantile(self, level: float | int) -> float:
        """The false-positive rate that a share `level` of calibration sets stay below."""
        return float(betaincinv(self.allowed, self.n + 1 - self.allowed, level))

    def among(self, m: int, level: float | int) -> int:
        """How many false alarms among `m` fresh clean requests a share `level` of cases stay at or
        below, over calibration sets and requests: a beta-binomial. What is counted in a test
        belongs between two of these; a rate between two quantiles would forget that m is finite.
        """
        from scipy.stats import betabinom  # takes a second to import

        return int(betabinom.ppf(level, m, self.allowed, self.n + 1 - self.allowed))

    def __str__(self) -> str:
        return (
            f"alpha {self.alpha:g} on {self.n} calibration requests: false alarms "
            f"{self.expected:.2%} on average, below {self.quantile(0.95):.2%} for 95% of such sets"
        )


def needed(alpha: float | int) -> int:
    """The fewest calibration requests that resolve alpha: 1/alpha - 1, rounded up."""
    return math.ceil(1 / Fraction(str(alpha))) - 1


@checked
def threshold(calibration: Float[Tensor, " n"], alpha: float | int) -> float:
    """The number that a score must exceed for p <= alpha.

    Raises:
        SettingError: alpha is below what the calibration set can resolve.
    """
    _refuse(calibration, calibration)
    promise = Guarantee(float(alpha), len(calibration))
    return float(calibration.sort(descending=True).values[promise.allowed - 1])


@checked
def step_down(
    values: Float[Tensor, " top"],
    vectors: Int[Tensor, " top"],
    clean_values: Float[Tensor, "n most"],
    clean_vectors: Int[Tensor, "n most"],
) -> Float[Tensor, " top"]:
    r"""Adjusted p-values of the vectors that score highest on one request: which to name.

    Westfall and Young's max-T step-down. The j-th vector is compared with the largest score that
    any vector *not ranked above it* has on each clean request, and p-values never decrease down the
    list. Naming those with $p \le \alpha$ names a wrong one with probability at most $\alpha$, if
    scores of vectors that are not at work are distributed as on clean requests, together, whatever
    the others do (subset pivotality). A steered model breaks that for vectors whose responses are
    alike: read those named together as one.

    Args:
        values, vectors: the highest scores of the request, descending, and whose they are.
        clean_values, clean_vectors: the same of every calibration request, as many at least. More
            than `top` are never needed: at most top - 1 vectors are left out.
    """
    if values.shape[0] > clean_values.shape[1]:
        raise SettingError(
            f"{values.shape[0]} vectors cannot be named with the {clean_values.shape[1]} highest "
            "scores of every calibration request."
        )
    _refuse(clean_values, values)
    adjusted = []
    for j in range(len(values)):
        gone = torch.isin(clean_vectors, vectors[:j])
        rest = clean_values.masked_fill(gone, -math.inf).amax(dim=1)
        adjusted.append(_ranks(rest, values[j]))
    return torch.stack(adjusted).cummax(dim=0).values


def _ranks(calibration: Tensor, scores: Tensor) -> Tensor:
    # One dtype for both, or a score of lower precision would not tie with itself.
    kind = torch.promote_types(calibration.dtype, scores.dtype)
    kept = calibration.to(scores.device, kind).sort().values
    below = torch.searchsorted(kept, scores.to(kind).contiguous())
    return (1 + len(kept) - below).double() / (len(kept) + 1)


def _refuse(calibration: Tensor, scores: Tensor) -> None:
    if len(calibration) == 0:
        raise SettingError("No calibration scores; p-values are ranks among them.")
    if bool(calibration.isnan().any()) or bool(scores.isnan().any()):
        raise NotFiniteError("NaN among the scores: a p-value for it would mean nothing.")
