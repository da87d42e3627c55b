"""The recipes of docs/interop/hub.md run, with a Hub on this machine."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer
from conftest import HAS_BRIDGE, PROMPTS, SOURCE, TARGET, make
from stub_hub import hub as hub

import tl_steer as ts
from tl_steer.cli import app

PAGE = Path(__file__).parents[2] / "docs/interop/hub.md"
# Before version 3 there is no such package to look in.
LENS = HAS_BRIDGE and bool(importlib.util.find_spec("transformer_lens.tools.analysis"))
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the page is not beside these tests")


def test_every_block_runs(hub, one, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    model = make("bridge-llama") if LENS else one
    bank = ts.elicit(
        model, PROMPTS[:1], source=SOURCE, target=TARGET, n=3, radius=2.0, progress=False
    )
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"(<!-- needs .*?-->\n)?```python\n(.*?)^```$", text, re.M | re.S)
    given = {"ts": ts, "model": model, "bank": bank, "prompts": PROMPTS[:1]}
    for needs, code in found:
        if LENS or not needs:
            exec(code, given)
    assert len(found) == 5
    assert given["again"].digest() == bank.digest()
    assert all(label.startswith("writes ") for label in given["bank"].labels)
    assert (tmp_path / "vector.json").is_file()
    assert "Features of 3 vectors" in capsys.readouterr().out


def test_commands_parse():
    command = typer.main.get_command(app)
    lines = re.findall(r"^    tl-steer (.*)$", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(lines) == 2
    for line in lines:
        name, *arguments = shlex.split(line)
        command.commands[name].make_context(name, arguments)
