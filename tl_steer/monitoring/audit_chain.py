"""The chain of an audit log: removed, changed, added and moved rows are seen.

Every row of every table gets a link, in the order of writing, with

    hash_n = SHA-256(hash_{n-1}, table, row)

Whoever changes a row must recompute all hashes behind it, and whoever cuts off the end leaves a
shorter chain that is whole. Both are possible for those who may write the file, as there is no key;
neither passes a comparison with a head that was kept elsewhere.
"""

import hashlib
import json
import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_steer.errors import AuditError, SettingError
from tl_steer.monitoring.audit_file import (
    TABLES,
    found_version,
    place,
    reading,
    refuse_altered,
    version_of,
)
from tl_steer.monitoring.audit_rows import COLUMNS

_COLUMNS = COLUMNS | {"meta": ("name", "value")}
_KEYS = {"requests": "id", "alerts": "id", "meta": "name"}


@dataclass(frozen=True)
class Verified:
    """What `verify_log` found of a log that is as it was written.

    Attributes:
        rows: alerts and requests.
        before: how many of them version 0.1.0 had written; they are sealed since the first opening
            by a later one.
        since: how many came after the head that was given, or `None`.
        head: of the chain. Kept elsewhere and given to `verify_log(head=...)` later, it shows that
            nothing up to here was changed or cut off.
    """

    rows: int
    before: int
    since: int | None
    head: str


def chain_row(db: sqlite3.Connection, table: str, key: Any) -> None:
    """Append the link of a row that has just been written, in the same transaction."""
    last = db.execute("SELECT number, hash FROM chain ORDER BY number DESC LIMIT 1").fetchone()
    number, head = last or (-1, "")
    row = _row(db, table, key)
    link = (number + 1, table, key, _link(head, table, row))
    db.execute("INSERT INTO chain (number, kind, row, hash) VALUES (?, ?, ?, ?)", link)


def verify_log(path: str | Path, *, head: str | None = None) -> Verified:
    """Check that an audit log is as it was written, and return its head to be kept elsewhere.

    Args:
        head: one that an earlier call returned. Without one, rows that were cut off the end are not
            missed, and neither is anything else by somebody who recomputed the chain.

    Raises:
        AuditError: a row was removed, changed, added by another program or moved; the log does not
            go back to `head`; it has no chain, as version 0.1.0 wrote none; or it is no audit log.
        SettingError: `head` is none.
    """
    if head is not None and not re.fullmatch(r"[0-9a-f]{64}", head):
        raise SettingError(f"head={head!r}: expected 64 hexadecimal digits, as verify_log gives.")
    own = place(path)
    if not own.exists():
        raise AuditError(f"No audit log at {path}.")
    if version_of(own) == 0:
        raise AuditError(f"{path} is empty: no log has been begun in it.")
    with reading(own) as db:
        db.execute("BEGIN")  # a writer may go on meanwhile
        if found_version(db, own) == 1:
            rows = sum(_count(db, table) for table in TABLES)
            raise AuditError(
                f"{path} has no chain: its {rows} rows came before the chain began. Opening it "
                "for writing, as watch(log=...) does, begins one."
            )
        refuse_altered(db, own)
        told = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if told != "ok":
            raise AuditError(f"{path} is damaged: {told[:200]}")
        return _verified(db, own, head)


def _verified(db: sqlite3.Connection, path: Path, head: str | None) -> Verified:
    last, at = "", None
    number = -1
    links = db.execute("SELECT number, kind, row, hash FROM chain ORDER BY number")
    for number, (place_, table, key, link) in enumerate(links):
        row = _row(db, table, key) if table in _KEYS else None
        last = "" if row is None else _link(last, table, row)
        if place_ != number or link != last:
            what = "is gone" if row is None else "was changed, or a row before it was moved"
            raise AuditError(f"{path} has been altered: row {number}, {table} {key!r:.60}, {what}.")
        at = number if link == head else at
    for table, column in _KEYS.items():
        query = (
            f"SELECT {column} FROM {table} WHERE NOT EXISTS "
            f"(SELECT 1 FROM chain WHERE kind = '{table}' AND row = {table}.{column}) LIMIT 1"
        )
        added = db.execute(query).fetchone()
        if added:
            raise AuditError(
                f"{path} has been altered: {table} {added[0]!r:.60} was not written by tl_steer."
            )
    before = dict(db.execute("SELECT name, value FROM meta")).get("before", "0")
    if number < 1 or not before.isdigit():
        raise AuditError(f"{path} has been altered: its chain has no beginning.")
    if head is not None and at is None:
        raise AuditError(
            f"{path} does not go back to the head {head[:16]}…: rows were cut off or rewritten "
            "after it was kept, or it is another log's."
        )
    rows = sum(_count(db, table) for table in TABLES)
    return Verified(rows, int(before), None if at is None else number - at, last)


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _row(db: sqlite3.Connection, table: str, key: Any) -> Any:
    columns = ", ".join(_COLUMNS[table])
    return db.execute(f"SELECT {columns} FROM {table} WHERE {_KEYS[table]} IS ?", [key]).fetchone()


def _link(head: str, table: str, row: Any) -> str:
    return hashlib.sha256(json.dumps([head, table, *map(_exact, row)]).encode()).hexdigest()


def _exact(value: Any) -> Any:
    """As JSON that only this value of SQLite has."""
    if isinstance(value, float):
        return {"real": value.hex()}
    return {"blob": value.hex()} if isinstance(value, bytes) else value
