"""Alerts of a monitor: which there were, and of each the scores over tokens and what fired."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.files.tables import number
from tl_steer.files.text import capped
from tl_steer.monitoring.alert import Alert
from tl_steer.monitoring.audit import read_log
from tl_steer.views.page import rounded
from tl_steer.views.rows import Row, Rows, as_number, rows_of, table_rows
from tl_steer.views.view import View

# What a page holds of a log, the newest first: so many alerts, and so many tokens of all of them.
_MOST, _TOKENS = 5000, 400_000
# What it holds of one alert; a log is somebody else's file.
_OF_ONE, _NAMED, _LETTERS = 4096, 8, 160


def alerts_view(log: str | Path | Rows, *, title: str = "Alerts") -> View:
    """A list of alerts, sorted and filtered in the page; of the one that is picked, its scores over
    tokens with the threshold, and what fired. Times are UTC.

    Args:
        log: an audit log's path; alerts, as `watch` collects them or `read_log` gives them; or any
            table (see `sweep_view`) with a row per token: `score`, and if known `token`,
            `threshold`, `fired` and `vector` (the nearest of the bank). The newest 5000 alerts, or
            fewer where they have more than 400,000 tokens, and the first 4096 tokens of each.

    Raises:
        AuditError: no audit log at that path.
        SettingError: no rows, or no scores.
    """
    rows = alert_rows(log)
    if not rows:
        raise SettingError("No alerts, so there is nothing to show.")
    if "trace" not in rows[0]:
        return _of_tokens(rows, title)
    kept = _newest(rows)
    alerts = [_of_alert(row) for row in kept]
    data = {"alerts": alerts, "left_out": len(rows) - len(kept)}
    fired = sum(len(one["fired"]) for one in alerts)
    scored = sum(len(one["trace"]) for one in alerts)
    lines = [f"{len(rows)} alerts; {fired} of {scored} tokens fired", *map(_line, alerts[-3:])]
    return View("alerts", title, data, tuple(lines), 640)


def alert_rows(log: str | Path | Rows) -> list[Row]:
    """Of every request the last word, as the audit log has it; other tables as they are."""
    if isinstance(log, (str, Path)):
        found: Iterable[Any] = read_log(log)
    elif isinstance(log, (list, tuple)):
        found = _told(log)
    else:
        return table_rows(log)
    rows = rows_of(found)
    if rows and "trace" not in rows[0]:
        return rows
    last = {(row.get("request"), row.get("kind")): row for row in rows}
    return list(last.values())


def _told(alerts: Sequence[Any]) -> list[Any]:
    """Alerts as a log has them, with the digests of their banks; rows as they are."""
    digests = {key: bank.digest() for key, bank in raised_with(alerts).items()}
    return [
        asdict(one.row(bank=digests[id(one.bank)])) if isinstance(one, Alert) else one
        for one in alerts
    ]


def raised_with(alerts: Sequence[Any]) -> dict[int, Bank]:
    """The banks of alerts in hand, each once, by its `id`."""
    return {id(one.bank): one.bank for one in alerts if isinstance(one, Alert)}


def _newest(rows: list[Row]) -> list[Row]:
    """The last of them whose tokens a page has room for, the very last whatever it holds."""
    sizes = (len(_trace(row)) for row in reversed(rows))
    fitting = itertools.takewhile(lambda total: total <= _TOKENS, itertools.accumulate(sizes))
    return rows[-max(1, min(_MOST, sum(1 for _ in fitting))) :]


def _trace(row: Row) -> list[float | None]:
    return [as_number(score) for score in itertools.islice(row.get("trace") or (), _OF_ONE)]


def _of_alert(row: Row) -> dict[str, Any]:
    tokens = list(itertools.islice(row.get("tokens") or (), _OF_ONE))
    others = list(itertools.islice(row.get("alternatives") or (), _NAMED))
    trace = _trace(row)
    names = ("p_value", "statistic", "threshold", "vector_p", "explained", "alpha")
    return {
        "at": as_number(row.get("at")),
        "kind": _short(row.get("kind")),
        "vector": _short(row.get("vector")),
        "label": _short(row.get("label")),
        "request": _short(row.get("request")),
        **{name: as_number(row.get(name)) for name in names},
        "fired": [[_place(one), _short(one.get("text") or one.get("id"))] for one in tokens],
        "trace": [
            None if score is None else short
            for score, short in zip(trace, rounded(trace, 5), strict=True)
        ],
        "others": [
            [_short(one.get("vector")), _short(one.get("label")), as_number(one.get("score"))]
            for one in others
        ],
    }


def _place(token: Row) -> int:
    place = as_number(token.get("position"))
    return int(place) if place is not None and math.isfinite(place) else -1


def _short(value: Any) -> str:
    return "" if value is None else capped(str(value), _LETTERS)


def _line(alert: dict[str, Any]) -> str:
    named = f", vector {alert['vector']}" if alert["vector"] else ""
    label = f" ({alert['label']})" if alert["label"] else ""
    return f"{alert['kind']}{named}{label}, p = {number(alert['p_value'])}"


def _of_tokens(rows: list[Row], title: str) -> View:
    """A table of tokens, which is of one request or of what somebody put together."""
    if "score" not in rows[0]:
        raise SettingError(f"The log has {list(rows[0])}; expected a column 'score'.")
    kept = rows[:_OF_ONE]
    fired = [_fired(row) for row in kept]
    tokens = {
        "tokens": [_short(row.get("token")) for row in kept],
        "scores": [as_number(row.get("score")) for row in kept],
        "thresholds": [as_number(row.get("threshold")) for row in kept],
        "fired": fired,
        "vectors": [_short(row.get("vector")) for row in kept],
    }
    data = {"alerts": [], "left_out": len(rows) - len(kept), "tokens": tokens}
    line = f"{sum(fired)} of {len(kept)} tokens fired"
    return View("alerts", title, data, (line,), 480)


def _fired(row: Row) -> bool:
    if row.get("fired") is not None:
        return bool(row["fired"])
    score, threshold = as_number(row.get("score")), as_number(row.get("threshold"))
    return score is not None and threshold is not None and score > threshold
