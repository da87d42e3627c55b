"""What an audit log, or a list of alerts, says of when and how often."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tl_steer.errors import SettingError
from tl_steer.monitoring.alert import DRIFT, KNOWN, UNKNOWN, UNSCORABLE
from tl_steer.monitoring.audit import read_log
from tl_steer.views.alerts import alert_rows
from tl_steer.views.rows import Row, as_number

_KINDS = (KNOWN, UNKNOWN, UNSCORABLE, DRIFT)


@dataclass(frozen=True, eq=False)
class Logged:
    """Alerts with their times and kinds; times of all requests and their p-values, which a log's
    file has and a list of alerts has not; and the level of the alarms, where it was one."""

    alerts: Sequence[tuple[float, str]] = ()
    requests: Sequence[float] = ()
    p_values: Float[np.ndarray, " request"] = field(default_factory=lambda: np.zeros(0))
    level: float | None = None


def logged(log: Any, bank: str) -> Logged:
    """What is of one bank, by its digest; rows that name none count as its own.

    Raises:
        SettingError: a table of tokens.
        AuditError: no audit log at that path.
    """
    if log is None:
        return Logged()
    rows = [row for row in alert_rows(log) if row.get("bank", "") in ("", bank)]
    if any("kind" not in row for row in rows[:1]):
        raise SettingError(
            f"monitor_view(): the log has {list(rows[0])}; expected alerts, with kind and at."
        )
    alerts, level = _timed(rows), _level(rows)
    if not isinstance(log, (str, Path)):
        return Logged(alerts, level=level)
    asked = [row for row in read_log(log, "requests") if row["bank"] in ("", bank)]
    p = np.array([row["p_value"] for row in asked if row["p_value"] is not None], dtype=np.float64)
    return Logged(alerts, [row["at"] for row in asked], p, level)


def _timed(rows: Sequence[Row]) -> list[tuple[float, str]]:
    timed = [(as_number(row.get("at")), str(row.get("kind"))) for row in rows]
    return [
        (at, kind if kind in _KINDS else "other")
        for at, kind in timed
        if at is not None and math.isfinite(at)
    ]


def _level(rows: Sequence[Row]) -> float | None:
    """Of the drift alarm the level is another one."""
    found = {as_number(row.get("alpha")) for row in rows if row.get("kind") != DRIFT}
    return found.pop() if len(found) == 1 else None
