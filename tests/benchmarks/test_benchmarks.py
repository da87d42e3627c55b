"""Benchmarks take hours, so what is tested is that they still fit the package."""

import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = [path.stem for path in sorted(Path(__file__).parent.glob("*.py"))]


@pytest.mark.parametrize("name", [n for n in SCRIPTS if n != Path(__file__).stem])
def test_a_script_imports_and_says_what_it_takes(name, monkeypatch, capsys):
    module = importlib.import_module(name)
    assert module.__doc__
    if hasattr(module, "main"):
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as done:
            module.main()
        assert done.value.code == 0
        assert "usage" in capsys.readouterr().out
