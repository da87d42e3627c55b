"""Folders of sweeps: damage is named, and a folder has one writer."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny_sweep
import torch

import tl_steer as ts
from tl_steer.errors import SweepFileError
from tl_steer.sweeps.folder import Folder
from tl_steer.sweeps.state import STATE_FILE

OLD = Path(__file__).parents[1] / "fixtures" / "0.1.0" / "sweep"


@pytest.fixture
def folder(tmp_path):
    tiny_sweep.run(tmp_path / "s", n=7)
    return tmp_path / "s"


def rewritten(path, change):
    table = pq.read_table(path)
    pq.write_table(change(table), path, compression="zstd")


@pytest.mark.parametrize("column", ["kl", "dose", "entropy"])
def test_an_altered_number_is_found_and_its_part_named(folder, column):
    values = pq.read_table(folder / "part-000001.parquet")[column].to_pylist()
    rewritten(
        folder / "part-000001.parquet",
        lambda t: t.set_column(
            t.column_names.index(column), t.schema.field(column), [[values[-1], *values[1:]]]
        ),
    )
    with pytest.raises(SweepFileError, match=r"part-000001\.parquet was changed"):
        ts.load_sweep(folder)
    with pytest.raises(SweepFileError, match=r"part-000001\.parquet was changed"):
        tiny_sweep.run(folder, n=7)


def test_parts_that_changed_places_are_found(folder):
    a, b = folder / "part-000000.parquet", folder / "part-000001.parquet"
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)
    with pytest.raises(SweepFileError, match="part-000000"):
        ts.load_sweep(folder)


def test_a_part_that_changes_after_it_was_loaded_is_found(folder):
    found = ts.load_sweep(folder)
    found.cells()
    path = folder / "part-000002.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(SweepFileError, match="part-000002"):
        found.cells(["kl"])


def test_another_question_than_was_asked_is_found(folder):
    asked = json.loads((folder / "_sweep.json").read_text())
    asked["radius"] = 3.0
    (folder / "_sweep.json").write_text(json.dumps(asked))
    with pytest.raises(SweepFileError, match=r"_sweep\.json was changed"):
        ts.load_sweep(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"sums": torch.zeros(32, 3, 6)},
        {"sums": torch.full((32, 8, 6), float("nan"))},
        {"counts": torch.full((32, 8), -1.0)},
        {"checks": torch.zeros(1, 32, dtype=torch.uint8)},
        {"counts": torch.zeros(32, 8, dtype=torch.int64)},
    ],
)
def test_a_state_signed_anew_that_cannot_be_is_refused(folder, change):
    meta, tensors = STATE_FILE.read(folder / "_state.safetensors")
    STATE_FILE.write(folder / "_state.safetensors", meta, tensors | change)
    with pytest.raises(SweepFileError, match="_state"):
        ts.load_sweep(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["a"]},
        {"who": [["bank", 0, 1.0]]},
        {"who": 7},
        {"part": 0},
        {"metrics": {}},
        {"radius": "x"},
        {"of_text": ["nothing"]},
    ],
)
def test_folders_of_0_1_0_are_read_and_what_can_be_checked_in_them_is(tmp_path, change):
    path = tmp_path / "s"
    shutil.copytree(OLD, path)
    assert ts.load_sweep(path).prompts == len(ts.load_sweep(path).cells()) // len(
        ts.load_sweep(path).who
    )
    asked = json.loads((path / "_sweep.json").read_text()) | change
    (path / "_sweep.json").write_text(json.dumps(asked))
    with pytest.raises(SweepFileError):
        ts.load_sweep(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.slice(1),
        lambda t: t.drop_columns(["kl"]),
        lambda t: t.take([1, 0, *range(2, len(t))]),
        lambda t: t.set_column(4, "dose", [[1] * len(t)]),
    ],
)
def test_parts_of_0_1_0_with_other_rows_or_columns_are_refused(tmp_path, change):
    path = tmp_path / "s"
    shutil.copytree(OLD, path)
    rewritten(path / "part-000000.parquet", change)
    with pytest.raises(SweepFileError):
        ts.load_sweep(path)


def test_a_second_writer_is_told_who_the_first_is_and_takes_nothing(folder):
    before = sorted(path.name for path in folder.iterdir())
    with (
        Folder(folder).held(),
        pytest.raises(SweepFileError, match=rf"process {os.getpid()} on .*, since"),
    ):
        tiny_sweep.run(folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert tiny_sweep.run(folder).prompts == 13
