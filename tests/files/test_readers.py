"""Whatever is read: it works, or one of tl_steer's own errors says why not."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import tl_steer as ts
from tl_steer.cli import main
from tl_steer.errors import SteerError

EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SUFFIXES = ["", ".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".md", ".gz"]
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.sampled_from(["prompt", "text", "id"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def reads(read):
    """Any other error than ours fails the test."""
    with contextlib.suppress(SteerError):
        read()


@EXAMPLES
@given(st.sampled_from(SUFFIXES), st.binary(max_size=300) | st.text().map(str.encode))
def test_prompt_files_of_any_content(tmp_path, suffix, content):
    path = tmp_path / f"p{suffix}"
    path.write_bytes(content)
    for knobs in ({}, {"column": "text", "ids": "id"}):
        reads(lambda knobs=knobs: list(ts.sweeps.source_of(path, **knobs)))


@EXAMPLES
@given(anything)
def test_json_lines_of_any_value(tmp_path, value):
    for suffix, content in ((".jsonl", [value, value]), (".json", [[value]])):
        path = tmp_path / f"p{suffix}"
        text = "\n".join(json.dumps(each, default=repr) for each in content)
        path.write_text(text, encoding="utf-8")
        reads(lambda path=path: list(ts.sweeps.source_of(path)))


@EXAMPLES
@given(anything, st.none() | st.text())
def test_prompts_of_any_kind(value, column):
    reads(lambda: list(ts.sweeps.source_of(value, column=column)))
    reads(lambda: list(ts.sweeps.source_of([value], column=column)))


READERS = {
    "bank": ts.load_bank,
    "inspection": ts.inspection.load_inspection,
    "monitor": ts.Monitor.load,
    "sweep": ts.load_sweep,
}


@pytest.mark.parametrize("name", READERS)
@EXAMPLES
@given(st.binary(max_size=200), st.integers(0, 2**64 - 1))
def test_files_of_any_content(name, tmp_path, content, length):
    path = tmp_path / "f"
    for bytes_ in (content, length.to_bytes(8, "little") + content):
        path.write_bytes(bytes_)
        reads(lambda: READERS[name](path))


@pytest.mark.parametrize("name", READERS)
def test_paths_that_are_no_files(name, tmp_path):
    for path in (
        tmp_path,
        tmp_path / "none",
        tmp_path / "nul\0",
        tmp_path / ("x" * 300),
        "/dev/null",
    ):
        reads(lambda path=path: READERS[name](path))


@pytest.mark.parametrize("line", [["show"], ["report"], ["sweep"], ["audit"]])
def test_commands_end_with_one_line(tmp_path, monkeypatch, capsys, line):
    path = tmp_path / "f"
    path.write_bytes(b"\x00\x1b]0;x\x07")
    rest = ["--prompts", str(path)] if line == ["sweep"] else []
    monkeypatch.setattr("sys.argv", ["tl-steer", *line, str(path), *rest])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("Error: ")
    assert told.count("\n") == 1
