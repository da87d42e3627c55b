"""Files that are audit logs, and those that are not: nothing is changed before that is known."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tl_steer.errors import AuditError
from tl_steer.monitoring.audit_rows import COLUMNS

VERSION = 2  # 1, of tl_steer 0.1.0, had no chain
_MARK = 0x746C7374  # "tlst": the file's application id
_MAGIC = b"SQLite format 3\0"
TABLES = ("alerts", "requests")
# What SQLite raises of a damaged file; names that are no text come as UnicodeError.
FAULTS = (sqlite3.Error, UnicodeError, OverflowError)
# Of every table, what a new row must not share with an old one.
_TAKEN = {
    "requests": "id = NEW.id",
    "alerts": "id = NEW.id",
    "chain": "number = NEW.number OR (kind = NEW.kind AND row = NEW.row)",
    "meta": "name = NEW.name",
}
_CREATE = {
    "requests": """CREATE TABLE requests (
    id TEXT PRIMARY KEY, at REAL NOT NULL, monitor TEXT NOT NULL, bank TEXT NOT NULL,
    prompt TEXT NOT NULL, tokens INTEGER NOT NULL, unscored INTEGER NOT NULL,
    statistic REAL, p_value REAL, alerted INTEGER NOT NULL
)""",
    "alerts": """CREATE TABLE alerts (
    id INTEGER PRIMARY KEY, request TEXT NOT NULL, at REAL NOT NULL, monitor TEXT NOT NULL,
    bank TEXT NOT NULL, kind TEXT NOT NULL, alpha REAL NOT NULL, p_value REAL,
    statistic REAL, threshold REAL, vector INTEGER, label TEXT NOT NULL,
    rank INTEGER NOT NULL, named INTEGER NOT NULL, vector_p REAL, explained REAL,
    revised INTEGER NOT NULL, tokens TEXT NOT NULL, alternatives TEXT NOT NULL,
    trace TEXT NOT NULL
)""",
    "alerts_by_request": "CREATE INDEX alerts_by_request ON alerts (request)",
    # `row` is the key of a row of the table `kind`; see audit_chain.py.
    "chain": """CREATE TABLE chain (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, row NOT NULL, hash TEXT NOT NULL,
    UNIQUE (kind, row)
)""",
    "meta": "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
}


def _triggers() -> Iterator[tuple[str, str]]:
    said = "BEGIN SELECT RAISE(ABORT, 'the audit log is append only'); END"
    for table, same in _TAKEN.items():
        for verb in ("UPDATE", "DELETE"):
            name = f"{table}_no_{verb.lower()}"
            yield name, f"CREATE TRIGGER {name} BEFORE {verb} ON {table} {said}"
        # INSERT OR REPLACE deletes, and fires no trigger for that unless it is told to.
        name = f"{table}_no_replace"
        taken = f"SELECT 1 FROM {table} WHERE {same} OR rowid = NEW.rowid"
        yield name, f"CREATE TRIGGER {name} BEFORE INSERT ON {table} WHEN EXISTS ({taken}) {said}"


_CREATE |= dict(_triggers())


def place(path: str | Path) -> Path:
    """Where a log is or will be.

    Raises:
        AuditError: no name of a file. (SQLite has names that keep rows in memory or nowhere.)
    """
    text = str(path)
    if not text.strip() or text == ":memory:" or text.startswith("file:") or "\0" in text:
        raise AuditError(f"{text!r} is no name of a file. An audit log is kept on disk.")
    try:
        own = Path(path)
        if own.exists() and not own.is_file():
            raise AuditError(f"{path} is no file; an audit log is one. Choose another name.")
        if not own.parent.is_dir():
            raise AuditError(f"{path}: there is no folder {own.parent}. Make it first.")
        return own.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, AuditError):
            raise
        raise AuditError(f"{path!r} cannot be the name of an audit log: {error}") from error


def version_of(path: Path) -> int:
    """The version of a log; 0 of a file that nothing has been written to yet, as a writer that was
    killed at once leaves it, or that does not exist. Changes nothing.

    Raises:
        AuditError: another program's file, or another version's.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(100)
            size = file.seek(0, 2)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise AuditError(f"{path} cannot be read: {error}") from error
    if not head:
        return 0
    # Only what is still in the write-ahead log needs SQLite, which makes files of its own to look.
    begun = Path(f"{path}-wal").exists() or size <= 4096
    mark = int.from_bytes(head[68:72], "big")
    if not head.startswith(_MAGIC) or (mark != _MARK and (mark or not begun)):
        raise AuditError(f"{path} is a file, but no tl_steer audit log. Choose another name.")
    with reading(path) as db:
        return found_version(db, path)


def found_version(db: sqlite3.Connection, path: Path) -> int:
    mark = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if (mark, version) == (0, 0) and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        return 0
    if mark != _MARK:
        raise AuditError(f"{path} is an SQLite file, but no tl_steer audit log. Choose another.")
    if not 1 <= version <= VERSION:
        raise AuditError(
            f"{path} has audit log version {version}; this tl_steer writes {VERSION}. Start a new "
            "file, or use the version of tl_steer that wrote it."
        )
    for table in TABLES:
        columns = tuple(row[1] for row in db.execute(f"PRAGMA table_info({table})"))
        kind = db.execute("SELECT type FROM sqlite_master WHERE name = ?", [table]).fetchone()
        if kind != ("table",) or columns != COLUMNS[table]:
            raise AuditError(f"{path} is a damaged audit log: its table {table} has been altered.")
    return int(version)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing.

    Raises:
        AuditError: SQLite cannot read it, at any time in the block.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            db.execute("PRAGMA trusted_schema=OFF")  # what stands in a file runs nothing
            # Damaged text is for the check of rows to find, which can name the row.
            db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            yield db
    except FAULTS as error:
        raise AuditError(f"{path} cannot be read as an audit log: {error}") from error


def refuse_altered(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a log whose tables or triggers are not those that were made.

    Raises:
        AuditError: naming one.
    """
    found = dict(db.execute("SELECT name, sql FROM sqlite_master"))
    triggers = {n for (n,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
    altered = [name for name, sql in _CREATE.items() if found.get(name) != sql]
    altered += sorted(triggers - set(_CREATE))
    if altered:
        raise AuditError(
            f"{path} has been altered: {altered[0]} is not what tl_steer made. Keep the file as "
            "evidence, and start another log."
        )


def create(db: sqlite3.Connection) -> None:
    """Everything that a log has, in an empty file."""
    for statement in _CREATE.values():
        db.execute(statement)
    db.execute(f"PRAGMA application_id={_MARK}")
    db.execute(f"PRAGMA user_version={VERSION}")


def renew(db: sqlite3.Connection) -> None:
    """Everything that a log has, around the rows of version 1."""
    for table in TABLES:
        for verb in ("update", "delete"):
            db.execute(f"DROP TRIGGER IF EXISTS {table}_no_{verb}")
        db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    db.execute("DROP INDEX IF EXISTS alerts_by_request")
    create(db)
    for table, order in (("requests", "rowid"), ("alerts", "id")):
        db.execute(f"INSERT INTO {table} SELECT * FROM old_{table} ORDER BY {order}")
        db.execute(f"DROP TABLE old_{table}")
