"""The audit log: rows that stay, a chain that tells where they did not, and damaged files."""

import csv
import dataclasses
import hashlib
import io
import json
import random
import shutil
import sqlite3
from contextlib import closing, suppress

import pytest
from tiny_monitor import ALPHA, answer, monitor_of, prompts
from typer.testing import CliRunner

import tl_steer as ts
from tl_steer import cli
from tl_steer.errors import AuditError, SettingError, SteerError
from tl_steer.monitoring import audit as auditing
from tl_steer.monitoring.audit import (
    AlertRow,
    AuditLog,
    RequestRow,
    audit_table,
    read_log,
    verify_log,
)


def request(i, **changes):
    plain = RequestRow(f"r{i}", float(i), "m", "b", "hash", 3, 0, 1.5, 0.2, False)
    return RequestRow(**{**vars(plain), **changes})


def alert(i, **changes):
    values = {
        "request": f"r{i}",
        "at": float(i),
        "monitor": "m",
        "bank": "b",
        "kind": "known perturbation",
        "alpha": 0.01,
        "p_value": 0.005,
        "statistic": 9.0,
        "threshold": 5.0,
        "vector": i,
        "label": "dangerous: x",
        "rank": 1,
        "named": 2,
        "vector_p": 0.01,
        "explained": 0.5,
        "revised": False,
        "tokens": [{"position": 1, "id": 5}],
        "alternatives": [],
        "trace": [1.0, 9.0],
    }
    return AlertRow(**{**values, **changes})


@pytest.fixture
def path(tmp_path):
    """A log of four requests and alerts."""
    own = tmp_path / "a.sqlite"
    with AuditLog(own) as log:
        for i in range(4):
            log.request(request(i))
            log.alert(alert(i))
    return own


def by_hand(path, *statements):
    """Somebody who may write the file, and knows SQL."""
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def without_triggers(path):
    with closing(sqlite3.connect(path)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.commit()


def triggers_of(path):
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT sql FROM sqlite_master WHERE type='trigger'").fetchall()
    return [sql for (sql,) in rows]


def run(*arguments):
    done = CliRunner().invoke(cli.app, ["audit", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, (SteerError, SystemExit)):
        raise done.exception
    return done


# --- what is written comes back -----------------------------------------------------------------


def test_rows_come_back_filtered_as_asked(tmp_path):
    path = tmp_path / "a.sqlite"
    with AuditLog(path) as log:
        for i in range(4):
            log.request(request(i, p_value=0.1 * (i + 1)))
            log.alert(alert(i, kind="drift" if i == 3 else "unknown anomaly"))
    assert [row["id"] for row in read_log(path, "requests")] == ["r0", "r1", "r2", "r3"]
    assert [row["id"] for row in read_log(path, "requests", most_p=0.2)] == ["r0", "r1"]
    assert [row["vector"] for row in read_log(path, since=1, until=3)] == [1, 2]
    assert [row["vector"] for row in read_log(path, kind="drift")] == [3]
    assert [row["vector"] for row in read_log(path, vector=2, label="dangerous")] == [2]
    assert next(read_log(path))["tokens"] == [{"position": 1, "id": 5}]
    with pytest.raises(SettingError, match="expected one of"):
        list(read_log(path, "sqlite_master"))
    with pytest.raises(SettingError, match="not requests"):
        list(read_log(path, "requests", kind="drift"))
    for bad in ({"most_p": float("nan")}, {"since": 10**30}, {"vector": 2**63}):
        with pytest.raises(SettingError, match=r"6[24] bits"):
            list(read_log(path, **bad))


def test_what_was_never_measured_comes_back_as_nothing_and_infinity_as_itself(tmp_path):
    path, nan = tmp_path / "a.sqlite", float("nan")
    with AuditLog(path) as log:
        log.request(request(1, statistic=nan, p_value=nan))
        log.alert(alert(1, statistic=float("inf"), threshold=nan, trace=[nan, 1.0]))
        log.alert(alert(2, label="half \ud83d a pair"))
    row = next(read_log(path, "requests"))
    assert (row["statistic"], row["p_value"]) == (None, None)
    first, second = read_log(path)
    assert (first["statistic"], first["threshold"]) == (float("inf"), None)
    assert second["label"] == r"half \ud83d a pair"
    assert verify_log(path).rows == 3
    assert "–" in repr(audit_table([row]).rows)
    shown = json.loads(run(path, "--json").output, parse_constant=pytest.fail)
    assert (shown[0]["statistic"], shown[0]["trace"]) == (None, [None, 1.0])
    assert run(path, "--requests").exit_code == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"at": float("nan")},
        {"at": 1e300},
        {"alpha": float("nan")},
        {"vector": 2**70},
        {"tokens": [{"position": 1}]},
        {"alternatives": [object()]},
    ],
)
def test_a_row_that_could_not_be_read_again_is_not_written(path, changes):
    with AuditLog(path) as log:
        with pytest.raises(AuditError):
            log.alert(alert(9, **changes))
        log.alert(alert(9))
    assert len(list(read_log(path))) == 5
    assert verify_log(path).rows == 9


def test_two_writers_share_a_log_and_a_chain(tmp_path):
    path = tmp_path / "a.sqlite"
    with AuditLog(path) as first, AuditLog(path) as second:
        for i in range(10):
            (first, second)[i % 2].request(request(i))
        assert verify_log(path).rows == 10, "while they write"
    assert len(list(read_log(path, "requests"))) == 10


def test_hashes_of_prompts_are_the_log_s_own(tmp_path):
    with AuditLog(tmp_path / "a") as first, AuditLog(tmp_path / "b") as other:
        known = first.hash((1, 2, 3))
        assert len(known) == 32
        assert other.hash((1, 2, 3)) != known
        assert first.hash((1, 2, 4)) != known
    with AuditLog(tmp_path / "a") as again:
        assert again.hash([1, 2, 3]) == known
    plain = hashlib.sha256(b"[1, 2, 3]").hexdigest()
    assert known not in plain


def test_a_session_keeps_no_hash_that_can_be_looked_up(one, tmp_path):
    ids = one.to_tokens(prompts(1)[0])
    for name in "ab":
        with ts.watch(one, monitor_of(one), alpha=ALPHA, log=tmp_path / name):
            answer(one, ids)
            answer(one, ids)
    first, again, *_ = (row["prompt"] for row in read_log(tmp_path / "a", "requests"))
    there = next(read_log(tmp_path / "b", "requests"))["prompt"]
    assert first == again != there
    assert verify_log(tmp_path / "a").rows >= 2


# --- the log only grows -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM requests",
        "UPDATE requests SET p_value = 1",
        "UPDATE requests SET rowid = 99",
        "UPDATE alerts SET id = 99",
        "INSERT OR REPLACE INTO requests SELECT id,at,monitor,bank,prompt,tokens,unscored,0.0,1.0,0"
        " FROM requests WHERE id = 'r0'",
        "REPLACE INTO requests (rowid,id,at,monitor,bank,prompt,tokens,unscored,statistic,p_value,"
        "alerted) VALUES (1,'new',0,'','','',0,0,0,1,0)",
        "REPLACE INTO alerts SELECT * FROM alerts WHERE id = 1",
        "INSERT INTO alerts SELECT * FROM alerts WHERE true ON CONFLICT DO UPDATE SET rank = 9",
        "REPLACE INTO chain SELECT * FROM chain WHERE number = 1",
        "REPLACE INTO chain (number, kind, row, hash) VALUES (99, 'alerts', 1, '')",
        "UPDATE chain SET hash = ''",
        "REPLACE INTO meta VALUES ('salt', '00')",
        "DELETE FROM meta",
    ],
)
def test_the_log_only_grows_and_says_so(path, statement):
    before = verify_log(path)
    with closing(sqlite3.connect(path)) as db:
        with pytest.raises(sqlite3.Error, match=r"append only|UNIQUE"):
            db.execute(statement)
    assert verify_log(path, head=before.head) == dataclasses.replace(before, since=0)


CHANGES = {
    "changed": "UPDATE requests SET p_value = 1 WHERE id = 'r2'",
    "last changed": "UPDATE alerts SET label = 'benign' WHERE id = 4",
    "type changed": "UPDATE alerts SET label = CAST(label AS BLOB) WHERE id = 2",
    "removed": "DELETE FROM alerts WHERE id = 2",
    "last removed": "DELETE FROM alerts WHERE id = 4",
    "added": "INSERT INTO requests SELECT 'x',at,monitor,bank,prompt,tokens,unscored,statistic,"
    "p_value,alerted FROM requests WHERE id = 'r0'",
    "exchanged": "UPDATE requests SET id = 'x' WHERE id = 'r1'; UPDATE requests SET id = 'r1' "
    "WHERE id = 'r2'; UPDATE requests SET id = 'r2' WHERE id = 'x'",
    "renamed": "UPDATE requests SET id = 'x' WHERE id = 'r1'",
    "links moved": "UPDATE chain SET number = -number WHERE number IN (3, 4); "
    "UPDATE chain SET number = 7 + number WHERE number < 0",
    "link removed": "DELETE FROM chain WHERE number = 4",
    "first link removed": "DELETE FROM chain WHERE number = 0",
    "link of something else": "UPDATE chain SET kind = 'sqlite_master' WHERE number = 3",
    "hash changed": "UPDATE chain SET hash = replace(hash, substr(hash, 1, 1), 'x') "
    "WHERE number = 5",
    "chain emptied": "DELETE FROM chain",
    "salt changed": "UPDATE meta SET value = '00' WHERE name = 'salt'",
    "salt removed": "DELETE FROM meta WHERE name = 'salt'",
    "all removed": "DELETE FROM requests",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_done_without_the_triggers_is_seen(path, change):
    kept = triggers_of(path)
    without_triggers(path)
    by_hand(path, *change.split("; "))
    by_hand(path, *kept)
    with pytest.raises(AuditError, match="altered"):
        verify_log(path)


@pytest.mark.parametrize(
    "change",
    [
        "DROP TRIGGER alerts_no_delete",
        "CREATE TRIGGER t AFTER INSERT ON alerts BEGIN SELECT 1; END",
        "DROP TABLE chain",
        "ALTER TABLE alerts ADD COLUMN x",
    ],
)
def test_a_log_with_other_tables_or_triggers_is_not_gone_on_with(path, change):
    by_hand(path, change)
    for call in (verify_log, AuditLog):
        with pytest.raises(AuditError, match="altered"):
            call(path)


def test_rows_cut_off_the_end_are_missed_by_those_who_kept_the_head(path):
    whole = verify_log(path)
    with AuditLog(path) as log:
        log.request(request(9))
    assert verify_log(path, head=whole.head).since == 1
    kept = triggers_of(path)
    without_triggers(path)
    by_hand(path, "DELETE FROM requests WHERE id IN ('r3', 'r9')", "DELETE FROM alerts WHERE id=4")
    by_hand(path, "DELETE FROM chain WHERE number > 7")
    by_hand(path, *kept)
    short = verify_log(path)
    assert short.rows == 6, "a shorter chain is whole, as the page says"
    with pytest.raises(AuditError, match="cut off or rewritten"):
        verify_log(path, head=whole.head)
    with AuditLog(path) as log:  # and growing again does not hide it
        log.request(request(3, p_value=1.0))
        log.alert(alert(3))
    with pytest.raises(AuditError, match="cut off or rewritten"):
        verify_log(path, head=whole.head)
    with pytest.raises(SettingError, match="64 hexadecimal"):
        verify_log(path, head="abc")


def test_the_chain_can_be_recomputed_from_the_page_s_formula(path):
    """Independently of the code that made it."""
    with closing(sqlite3.connect(path)) as db:
        links = db.execute("SELECT kind, row, hash FROM chain ORDER BY number").fetchall()
        keys = {"meta": "name", "alerts": "id", "requests": "id"}
        head = ""
        for kind, key, kept in links:
            row = db.execute(f"SELECT * FROM {kind} WHERE {keys[kind]} = ?", [key]).fetchone()
            cells = [{"real": c.hex()} if isinstance(c, float) else c for c in row]
            head = hashlib.sha256(json.dumps([head, kind, *cells]).encode()).hexdigest()
            assert head == kept
    assert len(links) == 2 + 8
    assert verify_log(path).head == head


def test_the_command_line_verifies_and_compares_heads(path):
    done = run(path, "--verify")
    assert done.exit_code == 0
    head = verify_log(path).head
    assert "8 rows: none was removed" in done.output
    assert head in done.output
    found = json.loads(run(path, "--verify", "--json", "--head", head).output)
    assert found == {"rows": 8, "before": 0, "since": 0, "head": head}
    done = run("--verify", path, "--head", "0" * 64)
    assert isinstance(done.exception, AuditError)
    assert isinstance(run(path, "--head", head).exception, SettingError)
    without_triggers(path)
    assert isinstance(run("--verify", path).exception, AuditError)


# --- logs of 0.1.0 ------------------------------------------------------------------------------

OLD = """
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
CREATE TRIGGER alerts_no_update BEFORE UPDATE ON alerts BEGIN SELECT RAISE(ABORT, 'no'); END;
CREATE TRIGGER alerts_no_delete BEFORE DELETE ON alerts BEGIN SELECT RAISE(ABORT, 'no'); END;
CREATE TRIGGER requests_no_update BEFORE UPDATE ON requests BEGIN SELECT RAISE(ABORT, 'no'); END;
CREATE TRIGGER requests_no_delete BEFORE DELETE ON requests BEGIN SELECT RAISE(ABORT, 'no'); END;
INSERT INTO requests VALUES ('r0', 1.0, 'm', 'b', 'hash', 3, 0, 1.5, 0.2, 0);
INSERT INTO requests VALUES ('r1', 2.0, 'm', 'b', 'hash', 3, 0, 9.5, 0.01, 1);
INSERT INTO alerts VALUES (1, 'r1', 2.0, 'm', 'b', 'drift', 0.01, 0.005, 9.0, 5.0, NULL, '', 1, 2,
    NULL, NULL, 0, '[]', '[]', '[1.0, 9.0]');
PRAGMA application_id=1953264500;
PRAGMA user_version=1;
PRAGMA journal_mode=WAL;
"""


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(OLD)
    return path


def test_logs_without_a_chain_are_read_and_their_rows_sealed_when_they_are_gone_on_with(old):
    before = [list(read_log(old, table)) for table in ("requests", "alerts")]
    assert [len(rows) for rows in before] == [2, 1]
    with pytest.raises(AuditError, match="its 3 rows came before the chain began"):
        verify_log(old)
    with AuditLog(old) as log:
        log.request(request(5, at=9.0, statistic=float("nan")))
    after = [list(read_log(old, table)) for table in ("requests", "alerts")]
    assert after[0][:-1] == before[0]
    assert after[1] == before[1]
    found = verify_log(old)
    assert (found.rows, found.before) == (4, 3)
    assert "3 of them before the chain began" in run("--verify", old).output
    kept = triggers_of(old)
    without_triggers(old)
    by_hand(old, "UPDATE requests SET alerted = 0 WHERE id = 'r1'")
    by_hand(old, *kept)
    with pytest.raises(AuditError, match="altered"):
        verify_log(old)


def test_another_version_is_refused(path):
    by_hand(path, "PRAGMA user_version=99")
    for call in (AuditLog, verify_log, lambda path: list(read_log(path))):
        with pytest.raises(AuditError, match="version 99"):
            call(path)


# --- files that are none ------------------------------------------------------------------------


def foreign(path, *, wal, rows=1):
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [("x" * 900,)] * rows)
        db.commit()


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("wal", [True, False])
def test_another_program_s_database_is_refused_and_stays_as_it_is(tmp_path, wal, rows):
    foreign(tmp_path / "other", wal=wal, rows=rows)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for call in (AuditLog, verify_log, lambda path: list(read_log(path))):
        with pytest.raises(AuditError, match="no tl_steer audit log"):
            call(tmp_path / "other")
        left = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        assert left.pop("other") == before["other"]
        assert not {name for name in left if left[name] and not name.endswith("-shm")}


@pytest.mark.parametrize(
    "name", ["", " ", ":memory:", "file:x?mode=memory", ".", "a\0b", "n" * 300]
)
def test_names_that_keep_nothing_on_disk_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for call in (AuditLog, verify_log, lambda path: list(read_log(path))):
        with pytest.raises(AuditError):
            call(name)
    assert list(tmp_path.iterdir()) == []


def test_folders_devices_pipes_and_missing_folders_are_refused(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, "/dev/null", tmp_path / "pipe", tmp_path / "none" / "a.sqlite"):
        for call in (AuditLog, verify_log, lambda path: list(read_log(path))):
            with pytest.raises(AuditError):
                call(path)
    (tmp_path / "text").write_text("not a database, and longer than one header of theirs" * 9)
    for call in (AuditLog, verify_log, lambda path: list(read_log(path))):
        with pytest.raises(AuditError, match="no tl_steer audit log"):
            call(tmp_path / "text")
    for call in (verify_log, lambda path: list(read_log(path))):
        with pytest.raises(AuditError, match="No audit log"):
            call(tmp_path / "none")


def test_a_log_whose_writer_died_at_birth_is_empty_and_is_completed(tmp_path):
    (tmp_path / "nothing").touch()
    by_hand(tmp_path / "a page", "PRAGMA journal_mode=WAL")
    for path in (tmp_path / "nothing", tmp_path / "a page"):
        assert list(read_log(path)) == list(read_log(path, "requests")) == []
        assert run(path).exit_code == 0
        with pytest.raises(AuditError, match="no log has been begun"):
            verify_log(path)
        with AuditLog(path) as log:
            log.request(request(1))
        assert verify_log(path).rows == 1


# --- a log that cannot be written ---------------------------------------------------------------


def test_a_blocked_log_stops_the_generation_and_leaves_the_model_and_the_log_whole(
    one, path, monkeypatch
):
    monkeypatch.setattr(auditing, "_PATIENCE", 0.0)
    ids = one.to_tokens(prompts(1)[0])
    monitor, before = monitor_of(one), [list(m._forward_hooks) for m in one.modules()]
    with closing(sqlite3.connect(path)) as other:
        with pytest.raises(AuditError, match="could not be written: database is locked"):
            with ts.watch(one, monitor, alpha=ALPHA, log=path) as w:
                answer(one, ids)
                other.execute("BEGIN IMMEDIATE")
                w.flush()
    assert [list(m._forward_hooks) for m in one.modules()] == before
    assert "forward" not in vars(one)
    assert verify_log(path).rows == 8
    with ts.watch(one, monitor_of(one), alpha=ALPHA, log=path):
        answer(one, ids)
    assert verify_log(path).rows > 8


def test_a_full_disk_is_told_and_what_was_written_stays(path):
    with AuditLog(path) as log:
        log._db.execute("PRAGMA max_page_count=1")  # it becomes what the file has
        with pytest.raises(AuditError, match=r"could not be written: database or disk is full"):
            for i in range(10, 1000):
                log.request(request(i))
        written = len(list(read_log(path, "requests")))
        log._db.execute("PRAGMA max_page_count=100000")
        log.request(request(5000))
    assert verify_log(path).rows == written + 5


def test_a_log_that_was_moved_is_not_written_into_the_void(path):
    with AuditLog(path) as log:
        path.rename(path.with_name("moved"))
        with pytest.raises(AuditError, match="moved or removed"):
            log.request(request(9))
    assert not path.exists()


def test_what_interrupts_a_row_leaves_no_half_of_it(path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with AuditLog(path) as log:
        with monkeypatch.context() as patch:
            patch.setattr(auditing, "chain_row", stop)
            with pytest.raises(KeyboardInterrupt):
                log.request(request(9))
        log.request(request(9))
    assert verify_log(path).rows == 9


def test_a_request_is_logged_once(path):
    with AuditLog(path) as log, pytest.raises(AuditError, match="could not be written"):
        log.request(request(1))
    assert verify_log(path).rows == 8


# --- damaged and hostile logs -------------------------------------------------------------------


def everything(path):
    """All that reads a log; `SteerError`s are what a damaged one may end in."""
    for call in (
        lambda: audit_table(list(read_log(path))),
        lambda: audit_table(list(read_log(path, "requests"))),
        lambda: verify_log(path),
        lambda: run(path),
        lambda: run(path, "--json"),
        lambda: run(path, "--requests", "--json"),
        lambda: run(path, "--csv", path.with_suffix(".csv")),
        lambda: run("--verify", path),
        lambda: ts.views.alerts_view(path),
    ):
        with suppress(SteerError):
            call()


DAMAGE = {
    "alerts": {
        "tokens": ["'x'", "'{}'", "'[1]'", "'[{}]'", "NULL", "5", "x'80ff'", "'[1e999'"],
        "trace": ["'[\"a\"]'", "'[1" + "0" * 5000 + "]'", "'" + "[" * 20000 + "'", "'[[1]]'"],
        "alternatives": ["'[1]'", "''", "'null'"],
        "at": ["1e300", "9e999", "-1", "'noon'", "x'00'"],
        "p_value": ["'x'", "x'80'"],
        "vector": ["'x'", "1.5"],
        "label": ["x'80ff'", "5", "CAST(x'80ff' AS TEXT)"],
        "kind": ["x'41'"],
        "rank": ["-1", "'x'"],
        "revised": ["7"],
    },
    "requests": {
        "id": ["NULL", "x'41'"],
        "tokens": ["'many'", "-5", "2.5"],
        "alerted": ["'yes'"],
        "statistic": ["'x'"],
        "at": ["1e18"],
    },
}
CELLS = [(t, c, v) for t, columns in DAMAGE.items() for c, vs in columns.items() for v in vs]


@pytest.mark.parametrize(("table", "column", "value"), CELLS)
def test_a_cell_of_another_type_is_told_with_its_row(old, table, column, value):
    without_triggers(old)
    # Without the checks of the columns: types that no honest writer gets in.
    with closing(sqlite3.connect(old)) as db:
        columns = ", ".join(row[1] for row in db.execute(f"PRAGMA table_info({table})"))
        db.execute(f"ALTER TABLE {table} RENAME TO kept")
        db.execute(f"CREATE TABLE {table} ({columns})")
        db.execute(f"INSERT INTO {table} SELECT * FROM kept")
        db.execute(f"UPDATE {table} SET {column} = {value}")
        db.commit()
    with pytest.raises(AuditError, match=rf"(alert|request) .* is damaged: {column} is"):
        list(read_log(old, table))
    everything(old)


def test_damaged_files_end_in_one_kind_of_error(path, tmp_path):
    draw, whole = random.Random(0), path.read_bytes()
    changed = 0
    for i in range(60):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 1, 8, 200])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        if draw.random() < 0.2:
            data = data[: draw.randrange(len(data))]
        own = tmp_path / f"f{i}.sqlite"
        own.write_bytes(bytes(data))
        everything(own)
        changed += list_or_none(own) != list_or_none(path)
    assert changed > 10, "the damage reached rows"


def list_or_none(path):
    try:
        return list(read_log(path))
    except AuditError:
        return None


def test_the_command_line_lists_filters_and_exports_a_log(tmp_path):
    path = tmp_path / "a.sqlite"
    evil = "\x1b]0;evil\x07=1+1"
    with AuditLog(path) as log:
        log.request(request(1))
        log.alert(alert(1, label=f"dangerous {evil}"))
        log.alert(alert(2, label="=cmd()"))
    assert "2 rows" in run(path).output
    assert [row["vector"] for row in json.loads(run(path, "--json").output)] == [1, 2]
    assert len(json.loads(run(path, "--json", "--label", "dangerous").output)) == 1
    assert json.loads(run(path, "--requests", "--json").output)[0]["id"] == "r1"
    assert not any("\x1b" in run(path, *how).output for how in ([], ["--json"]))
    out = tmp_path / "out.csv"
    run(path, "--csv", out)
    text = out.read_text()
    assert "\x1b" not in text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0])[:3] == ["id", "request", "at"]
    assert [row["label"][:10] for row in rows] == ["dangerous ", "'=cmd()"]
    for bad in (["--since", "0001-01-01"], ["--since", "soon"], ["--most-p", "nan"]):
        assert isinstance(run(path, *bad).exception, (SettingError, type(None)))
    assert isinstance(run(path, "--csv", tmp_path / ("x" * 300)).exception, SteerError)


def test_a_copy_is_verified_like_the_log(path, tmp_path):
    shutil.copy(path, tmp_path / "copy")
    assert verify_log(tmp_path / "copy") == verify_log(path)
