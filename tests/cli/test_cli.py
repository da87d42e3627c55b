"""The command line, as a newcomer and as a script would use it."""

import json
import re
import subprocess
import sys

import pytest
from commands import run, tiny as tiny
from conftest import LLAMAS, PROMPTS, make
from two_models import base_of

import tl_steer as ts
from tl_steer import objectives
from tl_steer.elicitation import searching
from tl_steer.methods.named import METHODS
from tl_steer.monitoring.audit import AuditLog
from tl_steer.objectives.named import DIVERGENCES
from tl_steer.perturbations.kinds import KINDS


def made(tiny, tmp_path):
    path = tmp_path / "b.safetensors"
    done = run("elicit", path, "-p", PROMPTS[0], "--n", 3, "--radius", 2, "--json")
    assert done.exit_code == 0, done.output
    return path, json.loads(done.output)


def test_the_number_of_a_layer_and_one_head_are_hook_points(tiny, tmp_path):
    places = ("--source", "0", "--target", "blocks.3.attn.hook_z[1]")
    path = tmp_path / "b.safetensors"
    done = run("elicit", path, "-p", PROMPTS[0], "--n", 2, "--radius", 2, *places)
    assert done.exit_code == 0, done.output
    bank = ts.load_bank(path)
    assert bank.source.name == "blocks.0.hook_resid_post"
    assert (bank.target.name, bank.responses.shape) == (places[3], (2, 8))


def test_elicit_saves_a_bank_and_reports_it(tiny, tmp_path):
    path, summary = made(tiny, tmp_path)
    bank = ts.load_bank(path)
    assert (summary["vectors"], len(bank)) == (3, 3)
    assert summary["radius"] == pytest.approx(2)
    assert summary["source"] == bank.source.name == "blocks.1.hook_resid_post"
    assert summary["target"] == "blocks.2.hook_resid_post"


def test_a_run_with_checkpoints_is_resumed_from_the_banks_own_file(tiny, tmp_path):
    path, plain = tmp_path / "c.safetensors", made(tiny, tmp_path)[0]
    asked = ("elicit", path, "-p", PROMPTS[0], "--n", 3, "--radius", 2, "--json")
    assert run(*asked, "--checkpoint", "--every", 0).exit_code == 0
    assert path.read_bytes() == plain.read_bytes()
    assert run(*asked, "--resume").exit_code == 0
    assert path.read_bytes() == plain.read_bytes()


def test_show_needs_no_model(tiny, tmp_path):
    path, _ = made(tiny, tmp_path)
    assert "Bank of 3 steering vectors" in run("show", path).output
    assert json.loads(run("show", path, "--json").output)["method"] == "power"


def test_show_reads_words_into_empty_labels_where_that_is_asked(tiny, tmp_path):
    path, _ = made(tiny, tmp_path)
    bank = ts.load_bank(path).label(0, "reams")
    bank.save(path)
    shown = json.loads(run("show", path, "--words", "--json").output)["labels"]
    assert shown[0] == "reams"
    assert shown[1:] == list(ts.banks.words(tiny, bank).onto(bank).labels[1:])
    assert json.loads(run("show", path, "--json").output)["labels"] == ["reams", "", ""]


@pytest.mark.filterwarnings("ignore:No band")
def test_dose_shows_radii_and_the_band(tiny, tmp_path):
    path, _ = made(tiny, tmp_path)
    asked = ("dose", path, "-p", PROMPTS[0], "--share", 0.1, "--share", 2, "--tokens", 3)
    assert "Band: radius" in run(*asked).output
    found = json.loads(run(*asked, "--json").output)
    assert {round(dose["share"], 5) for dose in found["doses"]} == {0.1, 2.0}


@pytest.mark.parametrize(
    ("flags", "goal"), [((), objectives.Contrast), (("--one-token",), objectives.Substitution)]
)
def test_elicit_against_a_base_is_the_same_search_as_in_python(tmp_path, monkeypatch, flags, goal):
    models = {"mine": make(LLAMAS[0]), "base": base_of(LLAMAS[0])}
    monkeypatch.setattr(ts, "load_model", lambda name, **_: models[name])
    path = tmp_path / "b.safetensors"
    asked = ("elicit", path, "-p", PROMPTS[0], "--model", "mine", "--against", "base", *flags)
    done = run(*asked, "--n", 2, "--radius", 2, "--json")
    assert done.exit_code == 0, done.output
    expected = ts.elicit(
        models["mine"], [ts.chat(PROMPTS[0])], divergence=goal(models["base"]), n=2, radius=2,
        progress=False,
    )  # fmt: skip
    assert ts.load_bank(path).vectors.equal(expected.vectors)


def test_one_token_without_a_base_is_refused(tiny, tmp_path):
    with pytest.raises(ts.SteerError, match="--against"):
        run("elicit", tmp_path / "b", "-p", PROMPTS[0], "--one-token")


def test_sweep_tells_what_is_systematic_and_keeps_the_cells(tiny, tmp_path):
    path, _ = made(tiny, tmp_path)
    lines, folder = tmp_path / "p.txt", tmp_path / "cells"
    lines.write_text("\n".join(PROMPTS), encoding="utf-8")
    asked = ("sweep", path, "--prompts", lines, "--n-random", 2)
    done = run(*asked, "--save", folder)
    assert done.exit_code == 0, done.output
    assert "3 prompts; verdicts rest on kl" in done.output
    assert ts.load_sweep(folder).prompts == 3
    again = json.loads(run(*asked, "--save", folder, "--resume", "--json").output)
    assert (again["prompts"], again["finished"]) == (3, True)
    expected = ts.sweep(
        tiny, ts.load_bank(path), [ts.chat(p) for p in PROMPTS], n_random=2, progress=False
    )
    assert again["evidence"] == expected.to_json()["evidence"]


def test_sweep_scores_continuations_and_chooses_vectors(tiny, tmp_path):
    path, _ = made(tiny, tmp_path)
    rows = tmp_path / "p.csv"
    rows.write_text("key,q\n" + "".join(f"{i},t1 {p} t2\n" for i, p in enumerate(PROMPTS)))
    asked = ("sweep", path, "--prompts", rows, "--column", "q", "--ids", "key", "--generate", 2)
    asked += ("--regex", "t1", "--refusals", "-v", 1, "--n-random", 1, "--raw", "--json")
    found = json.loads(run(*asked).output)
    assert list(found["metrics"]) == ["regex_0", "refusal"]
    assert len(found["evidence"]["1.0"]) == 1
    asked = ("sweep", path, "--prompts", rows, "--column", "q", "--raw", "--n-random", 1)
    assert "verdicts rest on shared_phrase" in run(*asked, "--generate", 2).output
    with pytest.raises(ts.SteerError, match="--save"):
        run("sweep", path, "--prompts", rows, "--resume")


def test_grid_searches_what_a_plan_says_and_draws_the_pairs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "load_model", ts.load_model)
    plan, folder, page = tmp_path / "plan.toml", tmp_path / "grid", tmp_path / "pairs.html"
    plan.write_text(
        f"model = 'tiny'\nsources = [0, 1]\ntargets = [2, 3]\nradii = [2.0]\nn = 2\n"
        f"[prompts]\nhouse = ['{PROMPTS[0]}']\n[sweep]\nprompts = {PROMPTS[1:]}\nn_random = 3\n",
        "utf-8",
    )
    done = run("grid", plan, "--save", folder, "--view", page)
    assert done.exit_code == 0, done.output
    assert "4 of 4 cells, 0 failed" in done.output
    assert '"sources":["0","1"]' in page.read_text("utf-8")
    found = json.loads(run("grid", plan, "--save", folder, "--resume", "--json").output)
    assert [row["file"] is None for row in found["rows"]] == [False] * 4
    bank = ts.elicitation.load_grid(folder).bank(3)
    prompts = [ts.chat(prompt) for prompt in PROMPTS[1:]]
    alone = ts.sweep(tiny, bank, prompts, metrics=["kl"], n_random=3, progress=False).rows()
    assert found["rows"][3]["sweep"] == max(row["systematicness"] for row in alone)
    assert bank.scores["prevalence"].tolist() == pytest.approx([row["prevalence"] for row in alone])
    with pytest.raises(ts.SteerError, match="--workers as well"):
        run("grid", plan, "--save", folder, "--gpus", "0.5")


def test_a_grid_that_ctrl_c_ends_says_how_it_goes_on(tiny, tmp_path, monkeypatch):
    def method(objective, start):
        """Interrupted behind its first step, in the second cell."""
        for iterate in ts.methods.Power()(objective, start):
            yield iterate
            if objective.segment.target.layer == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(searching, "load_model", ts.load_model)
    plan, folder = tmp_path / "plan.toml", tmp_path / "grid"
    plan.write_text(
        f"model = 'tiny'\nsources = [0]\ntargets = [1, 2]\nradii = [2.0]\nn = 1\n"
        f"methods = ['power']\n[prompts]\nhouse = ['{PROMPTS[0]}']\n",
        "utf-8",
    )
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "power", lambda: method)
        done = run("grid", plan, "--save", folder)
    assert "1 of 2 cells" in done.output
    assert "with --resume goes on" in done.stderr
    again = run("grid", plan, "--save", folder, "--resume")
    assert "--resume goes on" not in again.output + again.stderr
    assert (done.exit_code, again.exit_code) == (130, 0)


def test_generate_continues_prompts_under_chosen_vectors(tiny, tmp_path):
    path, _ = made(tiny, tmp_path)
    done = run("generate", path, "-p", PROMPTS[0], "-v", 1, "--tokens", 3, "--json", "--raw")
    texts = json.loads(done.output)
    assert len(texts["texts"]) == 1
    expected = ts.generate(tiny, ts.load_bank(path)[[1]], [PROMPTS[0]], max_new_tokens=3)
    assert texts["texts"] == [list(row) for row in expected.texts]
    assert "unsteered" in run("generate", path, "-p", PROMPTS[0], "--tokens", 3).output


@pytest.mark.filterwarnings("ignore:No band between")  # words of a tiny model
def test_demo_compares_with_the_unsteered_model_and_random_vectors(tiny, tmp_path):
    path = tmp_path / "demo.safetensors"
    page = tmp_path / "demo.html"
    done = run("demo", "--save", path, "--report", page, "--n", 5, "--tokens", 3)
    assert done.exit_code == 0, done.output
    assert str(page) in done.output.splitlines()[-2]
    assert "Content-Security-Policy" in page.read_text()
    assert done.output.count("random") >= 4
    assert "unsteered" in done.output
    assert len(ts.load_bank(path)) == 5


def test_report_runs_the_model_on_prompts_or_shows_what_is_saved(tiny, tmp_path, monkeypatch):
    path, _ = made(tiny, tmp_path)
    page = tmp_path / "report.html"
    asked = ("report", path, "--out", page, "--json")
    done = run(*asked, "-p", PROMPTS[0], "--raw", "-v", 1, "--tokens", 3)
    assert json.loads(done.output)["bytes"] == page.stat().st_size
    assert 'id="v1.logit_change.0"' in page.read_text()
    assert 'id="v2.logit_change.0"' not in page.read_text(), "one was asked for"
    saved = ts.inspect(tiny, ts.load_bank(path), PROMPTS[0]).save(tmp_path / "seen.safetensors")
    monkeypatch.setattr(ts, "load_model", lambda *_: pytest.fail("no model is needed"))
    assert run(*asked, "--inspection", saved).exit_code == 0
    assert 'id="v2.attention_change.0"' in page.read_text()
    assert str(page) in run("report", path, "--out", page).output.replace("\n", "")


def test_a_report_takes_a_sweeps_folder_and_an_audit_log(tiny, tmp_path, monkeypatch):
    path, _ = made(tiny, tmp_path)
    lines, folder, page = tmp_path / "p.txt", tmp_path / "cells", tmp_path / "report.html"
    lines.write_text("\n".join(PROMPTS), encoding="utf-8")
    run("sweep", path, "--prompts", lines, "--n-random", 2, "--save", folder)
    AuditLog(tmp_path / "a.sqlite").close()
    monkeypatch.setattr(ts, "load_model", None)
    done = run("report", path, "--sweep", folder, "--log", tmp_path / "a.sqlite", "--out", page)
    assert done.exit_code == 0, done.output
    assert 'id="section-sweep"' in page.read_text(encoding="utf-8")
    assert "no alerts of this bank" in page.read_text(encoding="utf-8")


def test_help_explains_every_command():
    assert "Start with" in run("--help").output
    for command in ("demo", "elicit", "generate", "show"):
        done = run(command, "--help")
        assert done.exit_code == 0
        assert "Usage" in done.output


def test_errors_are_one_line_with_exit_code_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tl_steer", "show", str(tmp_path / "none.safetensors")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: No bank at")
    assert "Traceback" not in done.stderr


def test_usage_errors_exit_with_two():
    assert run("show").exit_code == 2
    assert run("nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["elicit", "x.safetensors", "-p", "t1", "--radius", "big"],
            r"a share of .* such as '0\.25x'",
        ),
        (
            ["elicit", "x.safetensors", "-p", "t1 t2 t3 t4", "--source", "blocks.9.x"],
            "no hook point",
        ),
    ],
)
def test_bad_options_are_explained(tiny, arguments, message):
    with pytest.raises(ts.SteerError, match=message):
        run(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "7-9"), "--layers 7-9: expected numbers of layers, as in 7,8,9"),
        (("--radius", "25%"), r"such as '0\.25x'"),
        (("--last", -1), "expected 0 or more"),
    ],
)
def test_what_needs_no_model_is_refused_before_one_is_loaded(
    tmp_path, monkeypatch, options, message
):
    monkeypatch.setattr(ts, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ts.SteerError, match=message):
        run("elicit", tmp_path / "b", "-p", PROMPTS[0], *options)


@pytest.mark.parametrize(
    ("options", "choices"),
    [
        (("--method", "powr"), METHODS),
        (("--divergence", "kl"), DIVERGENCES),
        (("--perturbation", "ablatoin"), set(KINDS) - {"adapter", "multi_site"}),
    ],
)
def test_a_misspelt_choice_is_a_usage_error_that_lists_what_there_is(
    tmp_path, monkeypatch, options, choices
):
    monkeypatch.setattr(ts, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    done = run("elicit", tmp_path / "b", "-p", PROMPTS[0], *options)
    assert done.exit_code == 2
    said = done.output.partition("is not one of")[2]
    assert set(re.findall(r"'(\w+)'", said)) == set(choices)


def test_a_model_goes_where_it_is_told_in_every_command_that_has_one(tiny, tmp_path, monkeypatch):
    path, _ = made(tiny, tmp_path)
    lines = tmp_path / "p.txt"
    lines.write_text(PROMPTS[0], encoding="utf-8")

    class Loaded(Exception):
        pass

    def load(*given, **options):
        raise Loaded(given, options)

    monkeypatch.setattr(ts, "load_model", load)
    where = ("--model", "mine", "--device", "cuda:1", "--dtype", "bfloat16")
    for command in (
        ("elicit", tmp_path / "b", "-p", PROMPTS[0]),
        ("generate", path, "-p", PROMPTS[0]),
        ("dose", path, "-p", PROMPTS[0]),
        ("report", path, "-p", PROMPTS[0]),
        ("sweep", path, "--prompts", lines),
    ):
        with pytest.raises(Loaded) as told:
            run(*command, *where)
        assert told.value.args == (("mine",), {"device": "cuda:1", "dtype": "bfloat16"})
        with pytest.raises(Loaded) as told:
            run(*command)
        assert told.value.args == (("smollm2",), {"device": None, "dtype": "float32"})


def elicited(tmp_path, *options):
    path = tmp_path / "o.safetensors"
    done = run("elicit", path, "-p", PROMPTS[0], "--n", 2, "--json", *options)
    assert done.exit_code == 0, done.output
    return ts.load_bank(path)


def test_the_options_of_elicit_are_its_arguments(tiny, tmp_path):
    prompts, ends = [ts.chat(PROMPTS[0])], {"source": 1, "target": 2}
    found = elicited(
        tmp_path,
        *("--radius", "0.25x", "--divergence", "cosine", "--last", 1),
        *("--perturbation", "norm_preserving", "--positions", "prompt"),
    )
    expected = ts.elicit(
        tiny, prompts, **ends, n=2, radius="0.25x", divergence="cosine", progress=False,
        perturbation="norm_preserving", measured=ts.Positions(last=1, bos=False),
        positions=ts.Positions(generated=False),
    )  # fmt: skip
    assert found.vectors.equal(expected.vectors)
    assert found.radius_share == pytest.approx(0.25)
    assert found.provenance == expected.provenance
    assert (found.kind, found.positions) == ("norm_preserving", expected.positions)


def test_several_layers_are_edited_as_one_from_the_first_on(tiny, tmp_path):
    found = elicited(tmp_path, "--layers", "0,2", "--perturbation", "ablation")
    assert [site.layer for site in found.perturbation().sites] == [0, 2]
    assert {part.kind for part in found.perturbation().parts} == {"ablation"}
    assert found.source.name == "blocks.0.hook_resid_post"


def test_strength_and_tokens_are_chosen_where_a_bank_is_used(tiny, tmp_path):
    path, _ = made(tiny, tmp_path)
    bank, prompts = ts.load_bank(path), [ts.chat(PROMPTS[0])]
    asked = ("generate", path, "-p", PROMPTS[0], "--tokens", 4, "--json")
    told = {"scale": 3.0, "positions": ts.hook_points.GENERATED}
    options = ("--scale", 3, "--positions", "generated")
    texts = json.loads(run(*asked, *options).output)["texts"]
    expected = ts.generate(tiny, bank, prompts, max_new_tokens=4, **told)
    assert texts == [list(row) for row in expected.texts]
    none = json.loads(run(*asked, "--scale", 0).output)
    assert {tuple(row) for row in none["texts"]} == {tuple(none["unsteered"])}

    lines = tmp_path / "p.txt"
    lines.write_text(PROMPTS[0], encoding="utf-8")
    swept = run("sweep", path, "--prompts", lines, "--n-random", 2, "--json", *options)
    expected = ts.sweep(tiny, bank, prompts, n_random=2, progress=False, **told)
    assert json.loads(swept.output)["evidence"] == expected.to_json()["evidence"]


def test_a_report_is_of_the_strength_that_was_asked_for(tiny, tmp_path, monkeypatch):
    path, _ = made(tiny, tmp_path)
    told = []

    def listen(name):
        verb = getattr(ts, name)

        def heard(*given, **options):
            told.append((name, options["scale"], options["positions"]))
            return verb(*given, **options)

        monkeypatch.setattr(ts, name, heard)

    for name in ("inspect", "generate"):
        listen(name)
    asked = ("report", path, "--out", tmp_path / "r.html", "-p", PROMPTS[0], "--tokens", 2)
    assert run(*asked, "--scale", 3, "--positions", "prompt").exit_code == 0
    at = ts.hook_points.PROMPT
    assert told == [(name, 3.0, at) for name in ("generate", "generate", "inspect", "inspect")]


def test_a_vector_that_is_not_there_is_explained(tiny, tmp_path):
    path, _ = made(tiny, tmp_path)
    with pytest.raises(ts.SteerError, match="no vector of number 7; there are 0, 1, 2"):
        run("generate", path, "-p", "t1", "-v", 7)
