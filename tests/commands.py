"""The command line with a tiny model in the place of every one that it loads."""

import pytest
from conftest import LLAMAS, make
from typer.testing import CliRunner

import tl_steer as ts
from tl_steer import cli


@pytest.fixture
def tiny(monkeypatch):
    """The tiny model stands in for every name."""
    model = make(LLAMAS[0])
    monkeypatch.setattr(ts, "load_model", lambda *_, **__: model)
    return model


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
