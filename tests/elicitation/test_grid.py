"""Grids in one process: which cells there are, what is kept of them, and what a kill leaves."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny_grid
import tiny_run
import torch
from conftest import LLAMAS, PROMPTS, make
from two_models import base_of

import tl_steer as ts
from tl_steer.elicitation import GridPlan, grid, load_grid, searching
from tl_steer.errors import GridFileError, SettingError
from tl_steer.methods.named import METHODS

SMALL = {"sources": [0], "targets": [2], "prompts": ["1 2 3 4"]}


@pytest.fixture(autouse=True)
def named(monkeypatch, tmp_path_factory):
    folder = tiny_grid.installed(tmp_path_factory.mktemp("named"))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.path.dirname(__file__)]))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tiny_grid.installed(tmp_path_factory.mktemp("named"))))
        folder = tmp_path_factory.mktemp("undisturbed")
        (folder / "marks").mkdir()
        return tiny_grid.search(folder / "grid", folder / "marks")


def contents(folder: Path):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "_grid.json"}


def test_every_combination_is_a_cell_but_for_targets_in_front_of_their_source():
    plan = GridPlan.of(
        SMALL | {"sources": [2, "blocks.1.hook_resid_pre", -3], "targets": [1, 2, 3]}
        | {"radii": ["auto", 0.5], "seeds": [4, 5]}
    )  # fmt: skip
    named = ("blocks.1.hook_resid_pre", 2), ("blocks.1.hook_resid_pre", 3)
    assert plan.pairs() == ((2, 3), *named, (-3, 1), (-3, 2), (-3, 3))
    cells = plan.cells()
    assert [cell.number for cell in cells] == list(range(6 * 2 * 2))
    assert [(c.radius, c.seed) for c in cells[:4]] == [("auto", 4), ("auto", 5), (0.5, 4), (0.5, 5)]
    assert {c.prompts for c in cells} == {"prompts"}


def test_a_point_inside_of_the_targets_layer_may_be_a_source():
    places = {"sources": ["blocks.1.hook_resid_pre"], "targets": ["blocks.1.hook_resid_post"]}
    assert len(GridPlan.of(SMALL | places).cells()) == 1
    with pytest.raises(SettingError, match="No target lies behind"):
        GridPlan.of(SMALL | {"sources": places["targets"], "targets": places["targets"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sauces": [1]}, "no 'sauces'.*Did you mean 'sources'"),
        ({"sources": []}, "sources: expected a list with something in it"),
        ({"sources": [1, 1]}, "sources: 1 stands there twice"),
        ({"sources": [True]}, "sources: expected numbers of layers"),
        ({"targets": ["resid"]}, "targets: expected numbers of layers or names"),
        ({"prompts": {}}, "prompts: expected a list of prompts, or sets"),
        ({"prompts": {"a": [" "]}}, "prompts: a prompt is empty"),
        ({"prompts": {"a": [3]}}, "prompts: expected a text, not int"),
        ({"radii": [0]}, "radii: expected numbers above 0"),
        ({"radii": ["x"]}, "radii: .*a share of the residual norm"),
        ({"methods": ["powr"]}, "methods: Unknown method 'powr'"),
        ({"seeds": [0.5]}, "seeds: expected a whole number"),
        ({"n": 0}, "n: expected a whole number of at least 1"),
        ({"divergence": "far"}, "divergence: Unknown divergence"),
        ({"perturbation": "far"}, "perturbation: Unknown kind"),
        ({"dtype": "int8"}, "dtype: .*floating-point"),
        ({"raw": 1}, "raw: expected true or false"),
        ({"sweep": 3}, "sweep: expected a table"),
        ({"against": "base", "last": 1}, "against: .*Leave divergence and last out"),
        ({"seeds": list(range(2_000)), "radii": list(range(1, 2_000))}, "3998000 of them"),
    ],
)
def test_what_no_grid_can_be_made_of_is_named(change, message):
    with pytest.raises(SettingError, match=message):
        GridPlan.of(SMALL | change)


def test_a_plan_is_read_from_toml_and_errors_say_where(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text('sources = [0]\ntargets = [2]\n[prompts]\nhouse = ["a", "b"]\n', "utf-8")
    assert GridPlan.read(path) == GridPlan((0,), (2,), {"house": ("a", "b")})
    path.write_text("n = 1\nsources = 0 0\n", "utf-8")
    with pytest.raises(SettingError, match=r"plan\.toml is no TOML.*line 2"):
        GridPlan.read(path)
    path.write_text("sources = [0]\n", "utf-8")
    with pytest.raises(SettingError, match=r"plan\.toml: A grid needs targets and prompts"):
        GridPlan.read(path)
    with pytest.raises(SettingError, match="No such file"):
        GridPlan.read(tmp_path / "none")


def test_a_cells_bank_is_the_one_that_elicit_learns(undisturbed):
    alone = ts.elicit(
        tiny_run.Curved(), tiny_run.PROMPTS, 0, 2, n=3, radius=2.0, seed=0, progress=False
    )
    (row,) = (r for r in undisturbed.rows if (r["source"], r["target"]) == ("0", "2") if r["file"])
    bank = undisturbed.bank(row["cell"])
    assert bank.vectors.equal(alone.vectors)
    assert row["objective"] == float(alone.objective.max())
    assert (row["vectors"], row["length"], row["method"]) == (3, 2.0, "auto")


def test_gain_is_the_share_of_the_target_moved_for_a_share_of_the_source(undisturbed):
    row = undisturbed.rows[1]
    model, bank = tiny_run.Curved(), undisturbed.bank(row["cell"])
    ids = torch.tensor([[int(word) for word in text.split()] for text in tiny_run.PROMPTS])

    @torch.no_grad()
    def stream(vector=0.0):
        """What the blocks make of the prompts, by hand: source behind block 0, target block 2."""
        source = 3 * torch.tanh(model.embed[ids] @ model.blocks[0].matrix.T)
        target = source + vector
        for block in list(model.blocks)[1:]:
            target = 3 * torch.tanh(target @ block.matrix.T)
        return source, target

    source, clean = stream()
    moved = [float((stream(v)[1] - clean)[:, -3:].mean(dim=(0, 1)).norm()) for v in bank.vectors]
    share = 2.0 / source.norm(dim=-1).median()
    expected = max(moved) / clean.norm(dim=-1).median() / share
    assert (row["source"], row["target"]) == ("0", "2")
    assert row["gain"] == pytest.approx(float(expected), rel=1e-4)
    assert 0 < row["random"] < row["gain"]


def test_a_cell_that_fails_says_why_and_the_others_go_on(undisturbed):
    assert undisturbed.finished
    failed = undisturbed.failures()
    assert [cell for cell, _ in failed] == [3, 4, 5]
    assert all(error.startswith("PromptError: Prompt 0 has 1 tokens") for _, error in failed)
    with pytest.raises(SettingError, match="Cell 3 has no bank; it failed: PromptError"):
        undisturbed.bank(3)
    assert "6 of 6 cells, 3 failed" in repr(undisturbed)


def test_numbers_that_are_made_of_a_bank_become_columns(undisturbed):
    assert [row["layer"] for row in undisturbed.rows] == [0.0, 0.0, 1.0, None, None, None]
    index = pq.read_table(undisturbed.folder / "index.parquet")
    assert index["layer"].to_pylist() == [row["layer"] for row in undisturbed.rows]


def test_a_grid_against_a_base_searches_what_was_installed(tmp_path, monkeypatch):
    models = {"mine": make(LLAMAS[0]), "base": base_of(LLAMAS[0])}
    monkeypatch.setattr(searching, "load_model", lambda name, **_: models[name])
    plan = GridPlan.of(
        {"model": "mine", "against": "base", "sources": [1], "targets": [3], "radii": [2.0]}
        | {"n": 2, "prompts": PROMPTS, "raw": True}
    )
    found = grid(plan, save=tmp_path / "g", progress=False)
    alone = ts.elicit(
        models["mine"], PROMPTS, 1, 3, against=models["base"], n=2, radius=2.0, progress=False
    )
    assert found.failures() == []
    assert found.bank(0).vectors.equal(alone.vectors)


def test_a_killed_grid_goes_on_and_ends_as_an_undisturbed_one(tmp_path, processes, undisturbed):
    marks = tmp_path / "marks"
    marks.mkdir()
    # At the plan, between a bank and its row, between a row and the next bank.
    for die_at in (1, 3, 2, None):
        one = processes.Process(target=tiny_grid.keep_going, args=(tmp_path / "g", marks, die_at))
        one.start()
        one.join()
        assert one.exitcode == (0 if die_at is None else -9)
    assert contents(tmp_path / "g") == contents(undisturbed.folder)


def test_a_search_that_ctrl_c_ends_is_no_cell_that_is_done(tmp_path, monkeypatch, undisturbed):
    def method(objective, start):
        """Interrupted behind its first step, in the second cell."""
        for iterate in ts.methods.Power()(objective, start):
            yield iterate
            if objective.segment.target.layer == 2:
                raise KeyboardInterrupt

    marks = undisturbed.folder.parent / "marks"
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "power", lambda: method)
        found = tiny_grid.search(tmp_path / "g", marks, methods=["power"])
    assert [row["cell"] for row in found.rows] == [0]
    assert not found.finished
    assert tiny_grid.search(tmp_path / "g", marks, methods=["power"]).finished


def test_numbers_may_not_have_the_names_of_columns(tmp_path):
    plan = GridPlan.of(tiny_grid.PLAN | {"prompts": ["1 2 3 4"], "sources": [1]})
    found = grid(
        plan, save=tmp_path / "g", after=lambda model, bank: (bank, {"error": 1.0}), progress=False
    )
    assert found.failures() == [
        (0, "SettingError: after= gives error, which are columns of every index.")
    ]


def test_what_is_lost_of_a_finished_grid_is_searched_again(tmp_path, undisturbed):
    folder = tmp_path / "g"
    shutil.copytree(undisturbed.folder, folder)
    (folder / "cell-000000.safetensors").unlink()
    whole = (folder / "cell-000002.safetensors").read_bytes()
    (folder / "cell-000002.safetensors").write_bytes(whole[:-1] + b"x")
    found = load_grid(folder)
    for cell in (0, 2):
        with pytest.raises(GridFileError, match="gone or was changed"):
            found.bank(cell)
    marks = undisturbed.folder.parent / "marks"
    tiny_grid.search(folder, marks)
    assert contents(folder) == contents(undisturbed.folder)


def test_a_folder_holds_one_grid(tmp_path):
    plan = GridPlan.of(tiny_grid.PLAN | {"prompts": ["1"]})
    grid(plan, save=tmp_path / "g", progress=False)
    with pytest.raises(GridFileError, match="holds a grid already"):
        grid(plan, save=tmp_path / "g", progress=False)
    other = GridPlan.of(tiny_grid.PLAN | {"prompts": ["1"], "n": 5})
    with pytest.raises(GridFileError, match="n is 3 there, 5 here"):
        grid(other, resume=tmp_path / "g", progress=False)
    with pytest.raises(SettingError, match="one of them"):
        grid(plan, progress=False)


def test_a_sweep_that_the_plan_asks_for_is_not_passed_over():
    plan = GridPlan.of(SMALL | {"sweep": {"prompts": ["1 2"]}})
    with pytest.raises(SettingError, match=r"after=sweeps\.Swept"):
        grid(plan, save="never made", progress=False)


def spoilt(folder, name, change):
    path = folder / name
    if name == "_grid.json":
        path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")
    elif name == "index.parquet":
        pq.write_table(change(pq.read_table(path)), path)


def with_column(name, values):
    return lambda table: table.set_column(table.column_names.index(name), name, [values])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("_grid.json", lambda asked: asked | {"version": 9}, "version 9"),
        ("_grid.json", lambda asked: asked | {"more": 1}, "cannot be read: expected"),
        ("_grid.json", lambda asked: asked | {"plan": {"n": "x"}}, "cannot be read: A grid"),
        ("_grid.json", lambda asked: asked | {"plan": 3}, "cannot be read"),
        ("index.parquet", lambda t: t.drop_columns(["gain"]), "not those of an index: .'gain'"),
        ("index.parquet", lambda t: t.take([1, 0]), "row of cell 0 behind that of cell 1"),
        ("index.parquet", lambda t: t.take([0, 0]), "row of cell 0 behind that of cell 0"),
        ("index.parquet", lambda t: t.take([0] * 7), "7 rows for 6 cells"),
        ("index.parquet", with_column("source", ["9"] * 6), "another source than the plan"),
        ("index.parquet", with_column("file", ["../x"] * 6), "neither a bank nor an error"),
        ("index.parquet", with_column("error", ["x"] * 6), "both a bank and an error"),
        ("index.parquet", with_column("cell", [0, 1, 2, 3, 4, 6]), "row of cell 6"),
    ],
)
def test_what_stands_in_a_folder_is_not_taken_on_trust(
    tmp_path, undisturbed, name, change, message
):
    folder = tmp_path / "g"
    shutil.copytree(undisturbed.folder, folder)
    spoilt(folder, name, change)
    with pytest.raises(GridFileError, match=message):
        load_grid(folder)


@pytest.mark.parametrize("name", ["_grid.json", "index.parquet"])
def test_a_file_that_was_cut_short_is_named(tmp_path, undisturbed, name):
    folder = tmp_path / "g"
    shutil.copytree(undisturbed.folder, folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    with pytest.raises(GridFileError, match=f"{name} cannot be read"):
        load_grid(folder)
    with pytest.raises(GridFileError, match="There is no grid"):
        load_grid(tmp_path)
