"""A monitor at a glance: scores against thresholds, errors of both kinds, calibration, alerts.

scores of clean and of steered requests, an audit log -> one view of five pictures, those it can
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed
from tl_steer.files.text import capped
from tl_steer.monitoring.panel import Panel, Scores
from tl_steer.monitoring.statistics.conformal import threshold
from tl_steer.sweeps.interval import exact
from tl_steer.views.logged import logged
from tl_steer.views.page import rounded
from tl_steer.views.rates import false_alarms, histograms, levels, over_time, roc, thinned
from tl_steer.views.rows import Rows
from tl_steer.views.view import View

_TRACES = 24  # requests of a group that can be picked
_CONTROLS = 6  # curves that can be told apart
_ALPHA = 0.01
_BAND, _WITHIN = (0.05, 0.5, 0.95), (0.025, 0.975)


@typed
def monitor_view(
    monitor: Panel,
    *,
    clean: Scores | None = None,
    steered: Scores | None = None,
    controls: Mapping[str, tuple[Scores, Scores]] | None = None,
    log: str | Path | Rows | None = None,
    alpha: float | int | None = None,
    title: str = "Monitor",
) -> View:
    """What a monitor's scores are worth, as pictures; each is there if what it needs is given.

    - Scores over tokens: the median and 90% of the clean and of the steered requests, and single
      ones, with both thresholds: that of the whole statistic, above which there is an alert, and
      that of the known parts alone, above which it is a "known perturbation".
    - Histograms of requests' statistics, those of calibration among them.
    - Detections against false alarms (ROC, or DET) at every threshold, the controls' beside the
      monitor's.
    - Calibration: which share of clean requests is flagged at each level, against what was
      promised, with the range in which 95% of such tests end (beta-binomial). The same of a log's
      traffic, which is no test: nobody knows that it was clean.
    - Alerts by hour and day (UTC), and beside them how many would be false if all were clean.

    Args:
        clean: `monitor.score` of clean requests that nothing was fitted on or calibrated with. On
            the monitor's own fitting prompts all of this is too good.
        steered: the same of requests in which the behaviour was there, by whatever brings it out:
            a trigger, or `perturbing`. What vectors of the bank itself steered is found more easily
            than what was planted.
        controls: by name, clean and steered scores of other monitors on the same requests, such as
            one of as many random vectors (`random_bank`) and one without any (`score=None,
            unknown=Mahalanobis()`). Six at most. Without them nobody can tell what a bank adds.
        log: an audit log's path, or alerts as `alerts_view` takes them; what another bank raised is
            left out.
        alpha: the level of alarms; unless given that of the log's, or 0.01 where there are none.

    Raises:
        SettingError: alpha is below what the calibration resolves, controls without clean and
            steered requests to compare them with or of other requests, no request in one of them,
            more than six controls, or a log that is a table of tokens.
        AuditError: no audit log at that path.
    """
    found = dict(controls or {})
    _refuse(clean, steered, found)
    seen = logged(log, monitor.bank.digest())
    alpha = (seen.level or _ALPHA) if alpha is None else alpha
    promise = [str(monitor.guarantee(alpha, category=i)) for i in range(_categories(monitor))]
    given = {k: v for k, v in (("clean", clean), ("steered", steered)) if v is not None}
    curves = []
    if clean is not None and steered is not None:
        pairs = {"monitor": (clean, steered), **found}
        curves = [_curve(name, *pair, alpha) for name, pair in pairs.items()]
    data = {
        "alpha": alpha,
        "promise": promise,
        "thresholds": _thresholds(monitor, alpha),
        "tokens": [_over_tokens(name, scores) for name, scores in given.items()],
        "scores": _histograms(monitor, given),
        "roc": curves,
        "calibration": _calibration(monitor, clean, seen.p_values),
        "time": over_time(seen.alerts, seen.requests),
        "level": seen.level or alpha,
    }
    return View("monitor", title, data, (*promise, *_lines(given, alpha, curves)), 900)


def _refuse(
    clean: Scores | None, steered: Scores | None, controls: Mapping[str, tuple[Scores, Scores]]
) -> None:
    for name, scores in (("clean", clean), ("steered", steered)):
        if scores is not None and not len(scores):
            raise SettingError(f"monitor_view(): {name} holds no request; expected at least one.")
    if controls and (clean is None or steered is None):
        raise SettingError(
            "monitor_view(): controls are compared with the monitor: give clean= and steered=, "
            "its own scores of the same requests."
        )
    if len(controls) > _CONTROLS:
        raise SettingError(
            f"monitor_view(): {len(controls)} controls; a picture shows {_CONTROLS} at most."
        )
    for name, pair in controls.items():
        sizes, own = tuple(map(len, pair)), (len(clean or ()), len(steered or ()))
        if sizes != own:
            raise SettingError(
                f"monitor_view(): the control {capped(name)!r} has {sizes[0]} clean and {sizes[1]} "
                f"steered requests, and the monitor {own[0]} and {own[1]}: score the same ones."
            )


def _categories(monitor: Panel) -> int:
    return len(monitor.calibration.sizes)


def _histograms(monitor: Panel, given: Mapping[str, Scores]) -> dict[str, object]:
    every = {"calibration": monitor.calibration.statistic}
    every |= {name: scores.statistic for name, scores in given.items()}
    return histograms({name: _array(values) for name, values in every.items()})


def _array(values: Tensor) -> np.ndarray:
    found: np.ndarray = values.detach().double().cpu().numpy()
    return found


def _thresholds(monitor: Panel, alpha: float | int) -> list[list[float]]:
    """Of every category: of the statistic, and of its known parts."""
    kept, whole = monitor.calibration, monitor.thresholds(alpha)
    if monitor.reader.parts == 1:  # the unknown part alone
        return [[limit, math.nan] for limit in whole]
    known = [
        threshold(kept.raised("known")[kept.category == i], alpha)
        for i in range(_categories(monitor))
    ]
    return [list(both) for both in zip(whole, known, strict=True)]


def _over_tokens(name: str, scores: Scores) -> dict[str, Any]:
    """Quantiles at every place, of the requests that have come so far, and some of these: the
    highest, the lowest, and evenly what lies between."""
    tokens = _array(scores.tokens)
    reached = [column[np.isfinite(column)] for column in tokens.T]
    quantiles = [np.quantile(at, _BAND) if len(at) else [math.nan] * 3 for at in reached]
    ranked = np.argsort(-_array(scores.statistic), kind="stable")
    even = np.linspace(0, len(scores) - 1, min(_TRACES, len(scores))).round().astype(int)
    return {
        "name": name,
        "n": len(scores),
        "quantiles": rounded(np.transpose(quantiles), 5),
        "requests": [_request(scores, row, tokens[row]) for row in ranked[even].tolist()],
    }


def _request(scores: Scores, row: int, tokens: np.ndarray) -> dict[str, Any]:
    places = np.flatnonzero(np.isfinite(tokens))
    scored = int(places[-1]) + 1 if len(places) else 0
    names = ("statistic", "known", "p_values", "known_p")
    return {
        "row": row,
        "category": int(scores.category[row]),
        "scores": rounded(tokens[:scored], 5),
        **{name: float(getattr(scores, name)[row]) for name in names},
    }


def _curve(name: str, clean: Scores, steered: Scores, alpha: float | int) -> dict[str, Any]:
    false, true, area = roc(_array(clean.statistic), _array(steered.statistic))
    rates = [_rate(scores, alpha) for scores in (clean, steered)]
    return {
        "name": capped(name),
        "points": thinned(false, true, len(clean)),
        "area": area,
        "false": rates[0],
        "detected": rates[1],
        "sizes": [len(clean), len(steered)],
    }


def _rate(scores: Scores, alpha: float | int) -> list[float]:
    """The share with p at most alpha, and its Clopper-Pearson interval."""
    hits, n = int((scores.p_values <= alpha).sum()), len(scores)
    return [hits / n, *exact(hits, n)]


def _calibration(
    monitor: Panel, clean: Scores | None, flagged: np.ndarray
) -> dict[str, Any] | None:
    if clean is None and not len(flagged):
        return None
    sizes = monitor.calibration.sizes
    alphas = levels(sizes)
    found: dict[str, Any] = {"promised": alphas.tolist(), "observed": None, "within": None}
    if clean is not None:
        fresh = [int((clean.category == i).sum()) for i in range(len(sizes))]
        within = [false_alarms(float(alpha), sizes, fresh, _WITHIN) for alpha in alphas]
        found |= {"observed": _shares(_array(clean.p_values), alphas), "n": len(clean)}
        found["within"] = [list(ends) for ends in zip(*within, strict=True)]
    if len(flagged):
        found |= {"traffic": _shares(flagged, alphas), "requests": len(flagged)}
    return found


def _shares(p_values: np.ndarray, alphas: np.ndarray) -> list[float]:
    # p-values are float32 or came through a file: 3/100 is to count at 3/100.
    at = np.searchsorted(np.sort(p_values), alphas + 1e-6, "right")
    shares: list[float] = (at / len(p_values)).tolist()
    return shares


def _lines(given: Mapping[str, Scores], alpha: float | int, curves: Any) -> list[str]:
    lines = []
    for name, scores in given.items():
        flagged = int((scores.p_values <= alpha).sum())
        lines.append(f"{name}: {flagged} of {len(scores)} requests flagged at {alpha:g}")
    return lines + [f"{curve['name']}: area {curve['area']:.3f}" for curve in curves]
