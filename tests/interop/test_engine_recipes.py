"""The recipes of docs/interop/engines.md run, on tiny models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROMPTS, make, tokenizer
from plain_hf import hugging_face
from test_docs import ROOT, execute

import tl_steer as ts

PAGE = "docs/interop/engines.md"

pytestmark = pytest.mark.skipif(
    not (ROOT / PAGE).is_file(), reason="the documentation is not beside these tests"
)


def test_the_recipes_of_the_engines_run(monkeypatch, tmp_path):
    if not hasattr(np, "float_"):
        monkeypatch.setattr(np, "float_", np.float64, raising=False)
    repeng = pytest.importorskip("repeng")
    pytest.importorskip("steering_vectors")
    monkeypatch.chdir(tmp_path)
    model = make("bridge-llama")
    bank = ts.elicit(model, PROMPTS[:1], source=1, target=2, n=5, radius=2.0, progress=False)
    bank.save("house.safetensors")
    given = {
        "ts": ts,
        "Path": Path,
        "json": json,
        "repeng": repeng,
        "model": model,
        "hf": hugging_face(),
        "tokenizer": tokenizer(),
    }
    found = execute(PAGE, given=given)
    for name in ("again", "back"):
        torch.testing.assert_close(found[name].vectors, bank.vectors[4:])
    assert torch.equal(found["trained"].layers[1], bank.vectors[4:])
    assert json.loads(found["request"]["vllm_xargs"]["hotwire"])[0]["id"] == "vector-4"
    assert {path.name for path in tmp_path.iterdir()} == {
        "house.safetensors",
        "reams.json",
        "reams.pt",
        "reams.svec",
        "steering.json",
        "vectors",
    }
