"""The audit log: what a monitor saw, request by request, in an SQLite file that only grows.

Write-ahead logging and a flush to disk for every row: what was committed survives the death of the
process and of the machine, and readers never block the writer. Triggers refuse updates, deletions
and replacements, and every row is a link of a chain of hashes, by which `verify_log` sees what was
done without them. Prompts are kept as a salted hash, alerts with the few tokens that fired.
"""

import hashlib
import hmac
import json
import math
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from tl_steer.errors import AuditError, SettingError
from tl_steer.files.signatures import typed
from tl_steer.files.tables import Sheet, number
from tl_steer.monitoring.audit_chain import (
    Verified as Verified,
    chain_row,
    verify_log as verify_log,
)
from tl_steer.monitoring.audit_file import (
    FAULTS,
    TABLES,
    VERSION,
    create,
    found_version,
    place,
    reading,
    refuse_altered,
    renew,
    version_of,
)
from tl_steer.monitoring.audit_rows import (
    COLUMNS,
    AlertRow as AlertRow,
    RequestRow as RequestRow,
    from_cells,
    to_cells,
)

_BANK = "bank "  # and a digest: the name of a note on which vectors it is of
_MOST_BANKS = 64  # of a log that are told: each is compared with a bank, and a file may name many
_PATIENCE = 30.0  # seconds that another writer may take


class AuditLog:
    """An open log; several processes may write to one file. One of version 0.1.0 is renewed: its
    rows stay, and the chain begins with them.

    Raises:
        AuditError: the file is no audit log, of another version, or altered; or it cannot be
            written. Another program's file is left as it was.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = place(path)
        self._lock = threading.Lock()
        version_of(self.path)  # refuses before SQLite touches it
        try:
            self._db = sqlite3.connect(
                f"{self.path.as_uri()}?mode=rwc",
                uri=True,
                check_same_thread=False,
                timeout=_PATIENCE,
                isolation_level=None,
            )
            self._db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        except FAULTS as error:
            raise AuditError(f"{path} cannot be opened as an audit log: {error}") from error
        try:
            self._prepare()
            self._salt = self._read_salt()
            self._file = self._identity()
        except BaseException:
            self._db.close()
            raise

    def hash(self, ids: Sequence[int]) -> str:
        """What is kept of a prompt: an HMAC by this log's own salt.

        Within one log equal prompts have equal hashes. Across logs they have not, and nobody
        without the log can look a hash up. Who has the log has the salt, and can still confirm a
        prompt that he guesses.
        """
        return hmac.digest(self._salt, str(list(ids)).encode(), hashlib.sha256).hex()[:32]

    def request(self, row: RequestRow) -> None:
        """Append one request; on return it is on disk.

        Raises:
            AuditError: it cannot be written: the disk is full, another writer blocks the file for
                30 seconds, the file was moved, or the request has been logged already.
        """
        self._append("requests", to_cells(row))

    def alert(self, row: AlertRow) -> None:
        """Append one alert; on return it is on disk.

        Raises:
            AuditError: as for `request`.
        """
        self._append("alerts", to_cells(row))

    def bank(self, digest: str, numbers: Sequence[int]) -> None:
        """Note once what a digest is of, so that alerts of a part of a bank are known as its own.

        Raises:
            AuditError: as for `request`.
        """
        name = f"{_BANK}{digest}"
        with self._lock, self._transaction() as db:
            if db.execute("SELECT 1 FROM meta WHERE name = ?", [name]).fetchone() is None:
                self._insert(db, "meta", {"name": name, "value": json.dumps(list(numbers))})

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, table: str, cells: dict[str, Any]) -> None:
        with self._lock, self._transaction() as db:
            if self._identity() != self._file:
                raise AuditError(
                    f"{self.path}: a row could not be written, as the file was moved or removed "
                    "since it was opened. Open it anew, and rotate logs between sessions only."
                )
            self._insert(db, table, cells)

    def _insert(self, db: sqlite3.Connection, table: str, cells: Mapping[str, Any]) -> None:
        places = ", ".join(f":{name}" for name in cells)
        statement = f"INSERT INTO {table} ({', '.join(cells)}) VALUES ({places})"
        written = db.execute(statement, cells).lastrowid
        chain_row(db, table, cells.get("id", cells.get("name", written)))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, whatever breaks in."""
        db = self._db
        try:
            if db.in_transaction:  # what was interrupted before it could be rolled back
                db.execute("ROLLBACK")
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
            if isinstance(error, FAULTS):
                told = f"{self.path}: a row could not be written: {error}"
                raise AuditError(told) from error
            raise

    def _prepare(self) -> None:
        try:
            for pragma in ("trusted_schema=OFF", "journal_mode=WAL", "synchronous=FULL"):
                self._db.execute(f"PRAGMA {pragma}")
        except FAULTS as error:
            raise AuditError(f"{self.path} cannot be opened as an audit log: {error}") from error
        with self._transaction() as db:  # two processes may both find an empty file
            version = found_version(db, self.path)
            if version == VERSION:
                refuse_altered(db, self.path)
                return
            old = [] if version == 0 else [(t, k) for t in TABLES for k in _keys(db, t)]
            (renew if version else create)(db)
            for name, value in (("salt", secrets.token_hex(32)), ("before", str(len(old)))):
                self._insert(db, "meta", {"name": name, "value": value})
            for table, key in old:
                chain_row(db, table, key)

    def _read_salt(self) -> bytes:
        try:
            found = self._db.execute("SELECT value FROM meta WHERE name = 'salt'").fetchone()
            return bytes.fromhex(found[0])
        except (*FAULTS, TypeError, ValueError) as error:
            raise AuditError(f"{self.path} has been altered: its salt is gone.") from error

    def _identity(self) -> tuple[int, int]:
        """Of the file that now has the path."""
        try:
            found = os.stat(self.path)
        except OSError:
            return (0, 0)
        return found.st_dev, found.st_ino


def _keys(db: sqlite3.Connection, table: str) -> list[Any]:
    return [key for (key,) in db.execute(f"SELECT id FROM {table} ORDER BY rowid")]


@typed
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
    """Rows of a log, oldest first; the file is opened read-only. None of a file in which a writer
    was killed before it had begun. `verify_log` says whether the rows are those that were written.

    Args:
        table: "alerts" or "requests".
        since, until: seconds since 1970, the first included.
        kind, vector, label: of alerts; `label` is looked for inside theirs.
        most_p: only p-values up to this.

    Raises:
        AuditError: no such file, no audit log, or a damaged row.
        SettingError: an unknown table, a filter that it does not have, or one that is no number.
    """
    if table not in TABLES:
        raise SettingError(f"table={table!r}: expected one of {', '.join(TABLES)}.")
    if table == "requests" and (kind, vector, label) != (None, None, None):
        raise SettingError("kind, vector and label choose among alerts, not requests.")
    numbers = {"since": since, "until": until, "vector": vector, "most_p": most_p}
    for name, value in numbers.items():
        _refuse_no_number(name, value)
    own = place(path)
    if not own.is_file():
        raise AuditError(f"No audit log at {path}.")
    if version_of(own) == 0:
        return
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
    names = COLUMNS[table]
    query = f"SELECT {', '.join(names)} FROM {table} WHERE {where} ORDER BY {order}"
    with reading(own) as db:
        for row in db.execute(query, tuple(used.values())):
            yield from_cells(dict(zip(names, row, strict=True)))


def banks_of(path: str | Path) -> dict[str, list[int]]:
    """Of the banks that a log's rows name by their digests, the vectors' numbers; none of a log of
    version 0.1.0. They are what the file says: compare with the digest of a bank in hand.

    Raises:
        AuditError: no audit log at that path.
    """
    own = place(path)
    if version_of(own) < VERSION:
        return {}
    with reading(own) as db:
        told = db.execute(
            "SELECT name, value FROM meta WHERE name LIKE ? LIMIT ?", [f"{_BANK}%", _MOST_BANKS]
        )
        return {name.removeprefix(_BANK): _numbers(value) for name, value in told}


def _numbers(value: str) -> list[int]:
    try:
        found = json.loads(value)
    except (TypeError, ValueError, RecursionError):
        return []
    whole = isinstance(found, list) and all(type(one) is int for one in found)
    return found if whole else []


def _refuse_no_number(name: str, value: float | int | None) -> None:
    if value is None:
        return
    fits = isinstance(value, (int, float)) and (isinstance(value, int) or not math.isnan(value))
    if not fits or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        raise SettingError(f"{name}={value!r:.40}: expected a number of at most 64 bits.")


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
        asked = str(row.get("request", row["id"]))[:8]
        drawn.append((at, asked, number(row["p_value"]), *what))
    columns = ("at", "request", "p", "kind", "vector", "label", "tokens")
    return Sheet(f"Audit log: {len(drawn)} rows", columns, tuple(drawn))
