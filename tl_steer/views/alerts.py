"""Alerts of a monitor: scores over tokens, the threshold, and what fired."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tl_steer.errors import SettingError
from tl_steer.files.tables import number
from tl_steer.files.text import capped
from tl_steer.monitoring.audit import read_log
from tl_steer.views.rows import Row, Rows, as_number, rows_of, table_rows
from tl_steer.views.view import View

# The newest; a log of a year would make a page that nobody opens.
_MOST = 200


def alerts_view(log: str | Path | Rows, *, title: str = "Alerts") -> View:
    """Scores over tokens with the threshold, and what fired.

    Args:
        log: an audit log's path; alerts, as `watch` collects them or `read_log` gives them; or any
            table (see `sweep_view`) with a row per token: `score`, and if known `token`,
            `threshold`, `fired` and `vector` (the nearest of the bank). The newest 200 alerts.

    Raises:
        AuditError: no audit log at that path.
        SettingError: no rows, or no scores.
    """
    rows = alert_rows(log)
    if not rows:
        raise SettingError("No alerts, so there is nothing to show.")
    whole = "trace" in rows[0]  # alerts, not a table of tokens
    groups = [_of_alert(row) for row in rows[-_MOST:]] if whole else [_of_table(rows)]
    left_out = max(0, len(rows) - _MOST) if whole else 0
    data = {"alerts": groups, "left_out": left_out}
    fired = sum(sum(group["fired"]) for group in groups)
    lines = [f"{fired} of {sum(len(group['scores']) for group in groups)} tokens fired"]
    lines += [group["title"] for group in groups[:3] if group["title"]]
    return View("alerts", title, data, tuple(lines), 480)


def alert_rows(log: str | Path | Rows) -> list[Row]:
    """Of every request the last word, as the audit log has it; other tables as they are."""
    if isinstance(log, (str, Path)):
        found: Iterable[Any] = read_log(log)
    elif isinstance(log, (list, tuple)):
        found = [asdict(one.row()) if hasattr(one, "row") else one for one in log]
    else:
        return table_rows(log)
    rows = rows_of(found)
    if rows and "trace" not in rows[0]:
        return rows
    last = {(row["request"], row["kind"]): row for row in rows}
    return list(last.values())


def _of_alert(row: Row) -> dict[str, Any]:
    texts = {
        token["position"]: capped(token.get("text") or str(token["id"])) for token in row["tokens"]
    }
    n = len(row["trace"])
    vector = "" if row["vector"] is None else str(row["vector"])
    named = f", vector {vector}" if vector else ""
    label = f" ({capped(row['label'])})" if row["label"] else ""
    return {
        "title": f"{row['kind']}{named}{label}, p = {number(row['p_value'])}",
        "request": capped(row["request"]),
        "vector": vector,
        "tokens": [texts.get(i, "") for i in range(n)],
        "places": ["prompt" if i == 0 else f"+{i}" for i in range(n)],
        "scores": [as_number(score) for score in row["trace"]],
        "thresholds": [as_number(row["threshold"])] * n,
        "fired": [i in texts for i in range(n)],
        "vectors": [vector if i in texts else "" for i in range(n)],
    }


def _of_table(rows: list[Row]) -> dict[str, Any]:
    if "score" not in rows[0]:
        raise SettingError(f"The log has {list(rows[0])}; expected a column 'score'.")
    vectors = (row.get("vector") for row in rows)
    return {
        "title": "",
        "request": "",
        "vector": "",
        "tokens": [capped(str(row.get("token", ""))) for row in rows],
        "places": [""] * len(rows),
        "scores": [as_number(row["score"]) for row in rows],
        "thresholds": [as_number(row.get("threshold")) for row in rows],
        "fired": [_fired(row) for row in rows],
        "vectors": ["" if vector is None else capped(str(vector)) for vector in vectors],
    }


def _fired(row: Row) -> bool:
    if row.get("fired") is not None:
        return bool(row["fired"])
    score, threshold = as_number(row["score"]), as_number(row.get("threshold"))
    return score is not None and threshold is not None and score > threshold
