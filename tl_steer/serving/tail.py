"""Alerts as they come: the end of an audit log, or what a monitor raised since the page opened."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_steer.monitoring.alert import Alert
from tl_steer.monitoring.audit import read_log
from tl_steer.views.alerts import alert_rows, alerts_view
from tl_steer.views.rows import Row

_MOST = 50  # alerts shown, the newest


class Tail:
    """Alerts of some banks from now on.

    Args:
        log: an audit log, which other processes may write to; it need not exist yet.
        banks: digests of the banks whose alerts are shown; those of others are left out.
    """

    def __init__(self, log: Path | None, banks: set[str]) -> None:
        self._log, self._banks, self._since = log, banks, time.time()
        self._raised: list[Alert] = []
        self._seen: list[Row] = []
        self._state: Any = None
        self._version = 0
        self._lock = threading.Lock()

    def raised(self, alert: Alert) -> None:
        """Keep an alert of our own; where there is a log, that has it."""
        if self._log is None:
            with self._lock:
                self._raised = [*self._raised, alert][-_MOST:]
                self._version += 1

    def newer(self, version: int) -> dict[str, Any]:
        """What there is, unless it is what that version had: `version`, and a view's `data`.

        Raises:
            AuditError: the log cannot be read.
        """
        with self._lock:
            rows: Sequence[Any] = self._raised if self._log is None else self._read(self._log)
            told: dict[str, Any] = {"version": self._version}
            if rows and version != self._version:
                told["data"] = alerts_view(list(rows)[-_MOST:]).data
            return told

    def _read(self, log: Path) -> list[Row]:
        """The log's rows, read again only after somebody wrote."""
        state = [_stat(path) for path in (log, log.with_name(f"{log.name}-wal"))]
        if state != self._state and log.is_file():
            rows = alert_rows(list(read_log(log, since=self._since)))
            found = [row for row in rows if row.get("bank") in self._banks]
            self._version += found != self._seen
            self._seen, self._state = found, state
        return self._seen


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_size, found.st_mtime_ns
