"""The audit log: what a monitor saw, request by request, in an SQLite file that only grows.

Write-ahead logging and a flush to disk for every row: what was committed survives the death of the
process and of the machine, and readers never block the writer. Triggers refuse updates and
deletions. That keeps honest programs honest; somebody who owns the file can still replace it, so
ship copies elsewhere if that matters. Prompts are kept as a hash, alerts with the few tokens that
fired.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tl_steer.errors import AuditError, SettingError
from tl_steer.files.tables import Sheet, number

VERSION = 1
_MARK = 0x746C7374  # "tlst": the file's application id
_SCHEMA = """
CREATE TABLE requests (
    id TEXT PRIMARY KEY, at REAL NOT NULL, monitor TEXT NOT NULL, bank TEXT NOT NULL,
    prompt TEXT NOT NULL, tokens INTEGER NOT NULL, unscored INTEGER NOT NULL,
    statistic REAL NOT NULL, p_value REAL NOT NULL, alerted INTEGER NOT NULL
);
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY, request TEXT NOT NULL, at REAL NOT NULL, monitor TEXT NOT NULL,
    bank TEXT NOT NULL, kind TEXT NOT NULL, alpha REAL NOT NULL, p_value REAL NOT NULL,
    statistic REAL NOT NULL, threshold REAL NOT NULL, vector INTEGER, label TEXT NOT NULL,
    rank INTEGER NOT NULL, named INTEGER NOT NULL, vector_p REAL, explained REAL,
    revised INTEGER NOT NULL, tokens TEXT NOT NULL, alternatives TEXT NOT NULL,
    trace TEXT NOT NULL
);
CREATE INDEX alerts_by_request ON alerts (request);
"""
TABLES = ("alerts", "requests")
_LISTS = ("tokens", "alternatives", "trace")


@dataclass(frozen=True)
class RequestRow:
    """One scored request. Times are seconds since 1970; `prompt` is a hash; `tokens` were scored,
    `unscored` came after the horizon."""

    id: str
    at: float
    monitor: str
    bank: str
    prompt: str
    tokens: int
    unscored: int
    statistic: float
    p_value: float
    alerted: bool


@dataclass(frozen=True)
class AlertRow:
    """One alert; `tokens`, `alternatives` and `trace` (the statistic at every scored token) are
    lists that JSON can hold. An alert is written when it is raised, and once more, `revised`, where
    the whole request told more."""

    request: str
    at: float
    monitor: str
    bank: str
    kind: str
    alpha: float
    p_value: float
    statistic: float
    threshold: float
    vector: int | None
    label: str
    rank: int
    named: int
    vector_p: float | None
    explained: float | None
    revised: bool
    tokens: Sequence[Any]
    alternatives: Sequence[Any]
    trace: Sequence[float]


class AuditLog:
    """An open log; several processes may write to one file.

    Raises:
        AuditError: the file is no audit log, or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(self.path, check_same_thread=False, timeout=30)
            self._prepare()
        except sqlite3.Error as error:
            raise AuditError(f"{path} cannot be opened as an audit log: {error}") from error

    def request(self, row: RequestRow) -> None:
        """Append one request; on return it is on disk."""
        self._insert("requests", asdict(row))

    def alert(self, row: AlertRow) -> None:
        """Append one alert; on return it is on disk."""
        values = asdict(row)
        values |= {name: json.dumps(values[name]) for name in _LISTS}
        self._insert("alerts", values)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _insert(self, table: str, values: dict[str, Any]) -> None:
        places = ", ".join(f":{name}" for name in values)
        statement = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})"
        try:
            with self._lock, self._db:
                self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise AuditError(f"{self.path}: a row could not be written: {error}") from error

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")  # two processes may both find an empty file
            if not self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                for statement in (*_SCHEMA.split(";\n"), *_triggers()):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id={_MARK}")
                self._db.execute(f"PRAGMA user_version={VERSION}")
        _refuse_other(self._db, self.path)


def read_log(
    path: str | Path,
    table: str = "alerts",
    *,
    since: float | int | None = None,
    until: float | int | None = None,
    kind: str | None = None,
    vector: int | None = None,
    label: str | None = None,
    most_p: float | int | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of a log, oldest first; the file is opened read-only.

    Args:
        table: "alerts" or "requests".
        since, until: seconds since 1970, the first included.
        kind, vector, label: of alerts; `label` is looked for inside theirs.
        most_p: only p-values up to this.

    Raises:
        AuditError: no such file, or no audit log.
        SettingError: an unknown table, or a filter that it does not have.
    """
    if table not in TABLES:
        raise SettingError(f"table={table!r}: expected one of {', '.join(TABLES)}.")
    if table == "requests" and (kind, vector, label) != (None, None, None):
        raise SettingError("kind, vector and label choose among alerts, not requests.")
    if not Path(path).is_file():
        raise AuditError(f"No audit log at {path}.")
    tests = {
        "at >= ?": since,
        "at < ?": until,
        "kind = ?": kind,
        "vector = ?": vector,
        "instr(label, ?) > 0": label,
        "p_value <= ?": most_p,
    }
    used = {test: value for test, value in tests.items() if value is not None}
    where = " AND ".join(used) or "1"
    order = "at, id" if table == "alerts" else "at, rowid"
    db = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)
    try:
        db.row_factory = sqlite3.Row
        _refuse_other(db, Path(path))
        query = f"SELECT * FROM {table} WHERE {where} ORDER BY {order}"
        for row in db.execute(query, tuple(used.values())):
            yield _parsed(dict(row))
    except sqlite3.Error as error:
        raise AuditError(f"{path} cannot be read as an audit log: {error}") from error
    finally:
        db.close()


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    lists = {name: json.loads(row[name]) for name in _LISTS if "kind" in row}
    return row | lists


def _triggers() -> Iterator[str]:
    for table in TABLES:
        for verb in ("UPDATE", "DELETE"):
            yield (
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END"
            )


def _refuse_other(db: sqlite3.Connection, path: Path) -> None:
    mark = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if mark != _MARK:
        raise AuditError(f"{path} is an SQLite file, but no tl_steer audit log. Choose another.")
    if version != VERSION:
        raise AuditError(
            f"{path} has audit log version {version}; this tl_steer writes {VERSION}. Start a new "
            "file, or use the version of tl_steer that wrote it."
        )


def audit_table(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """Alerts or requests of an audit log, oldest first."""
    drawn = []
    for row in rows:
        at = datetime.fromtimestamp(row["at"]).isoformat(" ", "seconds")
        if "kind" in row:
            vector = "" if row["vector"] is None else str(row["vector"])
            said = " ".join(str(token.get("text") or token["id"]) for token in row["tokens"])
            what = (row["kind"], vector, row["label"], said)
        else:
            scored = f"{row['tokens']} tokens" + (", alert" if row["alerted"] else "")
            what = ("request", "", "", scored)
        drawn.append((at, row.get("request", row["id"])[:8], number(row["p_value"]), *what))
    columns = ("at", "request", "p", "kind", "vector", "label", "tokens")
    return Sheet(f"Audit log: {len(drawn)} rows", columns, tuple(drawn))
