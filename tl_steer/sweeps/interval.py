"""Estimates with confidence intervals: a bootstrap over prompts, and exact shares."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import betaincinv

LEVEL = 0.95
_RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def resamples(n: int, *, seed: int, times: int = _RESAMPLES) -> Float[np.ndarray, "resample n"]:
    """How often each of n is drawn, n draws with replacement, many times over."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), size=times).astype(np.float64)


def weighted_mean(
    values: Float[np.ndarray, "vec prompt"], weights: np.ndarray
) -> Float[np.ndarray, "resample vec"]:
    """Mean of every resample; failed cells (NaN) are left out."""
    valid = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights @ np.where(valid, values, 0.0).T
        means: np.ndarray = total / (weights @ valid.T.astype(np.float64))
    return means


def percentiles(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tail = (1 - LEVEL) / 2
    finite = np.isfinite(resampled).any(axis=0)
    filled = np.where(finite, resampled, 0.0)
    low, high = np.nanquantile(filled, [tail, 1 - tail], axis=0)
    return np.where(finite, low, np.nan), np.where(finite, high, np.nan)


def exact(hits: float | int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share."""
    tail = (1 - LEVEL) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return low, high


def intervals(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[Interval]:
    rows = zip(value.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*row) for row in rows]


def share_interval(hits: float | int, n: int) -> Interval:
    if n == 0:
        return Interval(np.nan, np.nan, np.nan)
    return Interval(hits / n, *exact(hits, n))
