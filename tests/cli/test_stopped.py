"""Ctrl-C, and what loaders say: what a script or a person is told on the command line."""

import json
import sys

from commands import run, tiny as tiny
from conftest import PROMPTS

import tl_steer as ts
from tl_steer.methods.named import METHODS
from tl_steer.methods.power import Power
from tl_steer.sweeps.job import Job


def stopping(objective, start):
    """Ctrl-C after the second step."""
    for iterate in Power()(objective, start):
        yield iterate
        if iterate.step == 2:
            raise KeyboardInterrupt


def elicited(path, *options):
    return run("elicit", path, "-p", PROMPTS[0], "--n", 2, "--radius", 2, *options)


def test_a_stopped_search_says_what_it_saved_ends_with_130_and_show_says_so(
    tiny, tmp_path, monkeypatch
):
    path = tmp_path / "b.safetensors"
    monkeypatch.setitem(METHODS, "power", lambda: stopping)
    done = elicited(path, "--method", "power")
    assert done.exit_code == 130
    assert "Unfinished, interrupted after step 2 of" in done.stderr
    assert str(path) in done.stderr
    assert "saved to" not in done.stdout
    shown = " ".join(run("show", path).output.split())
    assert "unfinished: interrupted after step 2" in shown
    told = json.loads(run("show", path, "--json").output)["unfinished"]
    assert told.startswith("interrupted after step 2 of")
    assert ts.load_bank(path).provenance.unfinished == told


def test_json_of_a_stopped_search_is_still_json(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "power", lambda: stopping)
    done = elicited(tmp_path / "b.safetensors", "--method", "power", "--json")
    assert (done.exit_code, json.loads(done.stdout)["vectors"]) == (130, 2)


def test_a_finished_search_says_where_its_bank_is(tiny, tmp_path):
    path = tmp_path / "b.safetensors"
    assert f"Bank saved to {path}." in elicited(path).output.replace("\n", "")
    assert json.loads(run("show", path, "--json").output)["unfinished"] is None
    assert "unfinished" not in run("show", path).output


def test_ctrl_c_before_the_first_step_leaves_nothing(tiny, tmp_path, monkeypatch):
    def at_once(objective, start):
        raise KeyboardInterrupt
        yield

    monkeypatch.setitem(METHODS, "power", lambda: at_once)
    done = elicited(tmp_path / "b.safetensors", "--method", "power")
    assert done.exit_code == 130
    assert "Stopped before there was anything to save." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_sweep_says_where_its_cells_are_and_ends_with_130(tiny, tmp_path, monkeypatch):
    bank, lines, cells = (tmp_path / name for name in ("b.safetensors", "p.txt", "cells"))
    elicited(bank)
    lines.write_text("\n".join(f"t{i} t2 t3 t4" for i in range(40)), encoding="utf-8")
    done, counted = [], Job._counted

    def stops(self, *given):
        if done:
            raise KeyboardInterrupt
        done.append(counted(self, *given))
        return done[0]

    sweep = ("sweep", bank, "--prompts", lines, "--n-random", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Job, "_counted", stops)
        ended = run(*sweep, "--save", cells)
    kept = ts.load_sweep(cells)
    assert (ended.exit_code, kept.finished) == (130, False)
    said = " ".join(ended.stderr.split())
    assert f"Stopped after {kept.prompts} prompts; they are in {cells}" in said
    assert "--resume goes on" in said
    again = run(*sweep, "--save", cells, "--resume", "--json")
    assert (again.exit_code, json.loads(again.stdout)["finished"]) == (0, True)


class Loud:
    """A loader that prints and draws bars as transformers and HookedTransformer do."""

    def __init__(self, model):
        self.model = model

    def __call__(self, *_, **__):
        from transformers.utils import logging

        logging.get_logger("transformers.loud").warning("a notice")
        for _i in logging.tqdm(range(2), desc="Loading weights", file=sys.stderr):
            pass
        print("Loaded pretrained model into HookedTransformer")
        return self.model


def test_loaders_are_silent_unless_that_is_asked_for(tiny, tmp_path, monkeypatch):
    path = tmp_path / "b.safetensors"
    elicited(path)
    monkeypatch.setattr(ts, "load_model", Loud(tiny))
    asked = ("generate", path, "-p", PROMPTS[0], "--tokens", 1, "--json")
    quiet, loud = run(*asked), run("--verbose", *asked)
    assert json.loads(quiet.stdout) == json.loads(loud.stdout)
    assert quiet.stderr == ""
    assert "Loading weights" in loud.stderr
    assert "Loaded pretrained model" in loud.stderr


def test_a_sweeps_table_fits_into_eighty_columns(tiny, tmp_path, monkeypatch):
    bank, lines = tmp_path / "b.safetensors", tmp_path / "p.txt"
    elicited(bank)
    lines.write_text("\n".join(PROMPTS), encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "80")
    said = run("sweep", bank, "--prompts", lines, "--n-random", 2).output.splitlines()
    (heading,) = [line for line in said if "prevalence" in line and "q" in line.split()]
    for column in ("kl", "> random", "consistency", "systematic", "verdict"):
        assert column in heading
    assert max(map(len, said)) <= 80
    assert "┃" not in heading, "lines take the room that longer numbers need"
    assert "No verdict on fewer than 10 prompts" in " ".join(" ".join(said).split())
