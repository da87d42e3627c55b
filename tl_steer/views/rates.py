"""How often: curves of detection and false alarms, histograms, and alarms over time, of numbers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

_BINS, _ALPHAS = 40, 48
_FINE = 200  # places on an axis that eyes can tell apart
_HOUR, _DAY = 3600, 86400
_WIDTHS = {"hour": _HOUR, "day": _DAY, "week": 7 * _DAY, "30 days": 30 * _DAY}
_MONDAY = 4 * _DAY  # 1970 began on a Thursday
_MOST_BINS = 400


def roc(
    clean: Float[np.ndarray, " n"], steered: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"], float]:
    """Shares of false alarms and of detections at every threshold, and the area under them.

    A request is flagged where it scores at least the threshold, so ties go up together and count
    half in the area: Mann and Whitney's statistic.
    """
    thresholds = np.unique(np.concatenate([clean, steered]))[::-1]
    false, true = (
        np.r_[0, len(each) - np.searchsorted(np.sort(each), thresholds, "left")] / len(each)
        for each in (clean, steered)
    )
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    return false, true, area


def thinned(
    false: Float[np.ndarray, " points"], true: Float[np.ndarray, " points"], n: int
) -> list[tuple[float, float]]:
    """Corners of a curve that eyes can tell apart, on a linear axis and on a logarithmic one."""
    turns = np.ones(len(false), dtype=bool)
    slope = np.diff(np.stack([false, true]), axis=1)
    turns[1:-1] = np.abs(slope[0, 1:] * slope[1, :-1] - slope[1, 1:] * slope[0, :-1]) > 1e-12
    false, true = false[turns], true[turns]
    decades = np.log10(np.maximum(false, 0.5 / n))
    places = np.stack([false * _FINE, decades * 60, true * _FINE]).round()
    moved = np.r_[True, (np.diff(places, axis=1) != 0).any(axis=0)]
    moved[-1] = True
    kept = moved | np.r_[moved[1:], True]  # the last of those that share a place, too
    return list(zip(false[kept].tolist(), true[kept].tolist(), strict=True))


def histograms(groups: Mapping[str, Float[np.ndarray, " _"]]) -> dict[str, object]:
    """Counts in shared bins. What is infinite or NaN is counted apart."""
    finite = {name: values[np.isfinite(values)] for name, values in groups.items()}
    every = np.concatenate([*finite.values(), np.zeros(0)])
    edges = np.histogram_bin_edges(every if len(every) else np.array([0.0, 1.0]), bins=_BINS)
    return {
        "edges": edges.tolist(),
        "groups": [
            {
                "name": name,
                "counts": np.histogram(values, edges)[0].tolist(),
                "lost": len(groups[name]) - len(values),
            }
            for name, values in finite.items()
        ],
    }


def levels(sizes: Sequence[int]) -> Float[np.ndarray, " alpha"]:
    """Alarm levels that the category with fewest calibration requests resolves, from its smallest
    p-value to 1, about evenly on a logarithmic axis."""
    n = min(sizes) + 1
    return np.unique(np.geomspace(1, n, _ALPHAS).round()) / n


def false_alarms(
    alpha: float, sizes: Sequence[int], fresh: Sequence[int], within: Sequence[float]
) -> list[float]:
    """Quantiles of the share of false alarms among fresh clean requests.

    In a category of n calibration requests and m fresh ones the number is beta-binomial,
    $BetaBin(m; l, n + 1 - l)$ with $l = \\lfloor\\alpha (n+1)\\rfloor$ (`Guarantee.among`), and
    categories add up.
    """
    from scipy.signal import fftconvolve

    number = np.ones(1)
    for n, m in zip(sizes, fresh, strict=True):
        number = fftconvolve(number, _alarms(math.floor(alpha * (n + 1) + 1e-9), n, m))
    total = max(1, len(number) - 1)
    below = number.clip(0).cumsum() / number.clip(0).sum()
    return [float(np.searchsorted(below, level - 1e-12)) / total for level in within]


def _alarms(allowed: int, n: int, m: int) -> Float[np.ndarray, " count"]:
    """Probabilities of 0 to m alarms. None are allowed, or all are, where nothing is random."""
    from scipy.stats import betabinom

    if 0 < allowed < n + 1:
        found: np.ndarray = betabinom.pmf(np.arange(m + 1), m, allowed, n + 1 - allowed)
        return found
    certain = np.zeros(m + 1)
    certain[m if allowed else 0] = 1
    return certain


def over_time(
    alerts: Sequence[tuple[float, str]], requests: Sequence[float]
) -> list[dict[str, object]]:
    """Alerts by kind, and requests, in bins of time; the finest bins that a page has room for, and
    the next coarser ones. Bins begin with an hour, a day or a Monday, UTC."""
    times = [at for at, _ in alerts] + list(requests)
    if not times:
        return []
    first, last = min(times), max(times)
    fitting = {
        name: width for name, width in _WIDTHS.items() if (last - first) / width < _MOST_BINS - 1
    }
    if not fitting:
        days = math.ceil((last - first) / (_MOST_BINS - 1) / _DAY)
        fitting = {f"{days} days": days * _DAY}
    return [
        _binned(name, width, first, last, alerts, requests)
        for name, width in list(fitting.items())[:2]
    ]


def _binned(
    name: str,
    width: int,
    first: float,
    last: float,
    alerts: Sequence[tuple[float, str]],
    requests: Sequence[float],
) -> dict[str, object]:
    phase = _MONDAY if name == "week" else 0
    start = math.floor((first - phase) / width) * width + phase
    bins = int((last - start) // width) + 1

    def counted(times: Sequence[float]) -> list[int]:
        places = ((np.asarray(times, dtype=np.float64) - start) // width).astype(int)
        found: list[int] = np.bincount(places, minlength=bins).tolist()
        return found

    kinds = dict.fromkeys(kind for _, kind in alerts)
    return {
        "unit": name,
        "start": start,
        "width": width,
        "kinds": [[kind, counted([at for at, own in alerts if own == kind])] for kind in kinds],
        "requests": counted(requests) if requests else None,
    }
