"""docs/interop/transformers.md runs, block by block, on a tiny model."""

import pytest
import torch
from conftest import PROMPTS, tokenizer
from plain_families import bridged, fresh
from test_docs import ROOT, blocks, execute

import tl_steer as ts
from tl_steer.perturbations import Additive

PAGE = "docs/interop/transformers.md"


@pytest.mark.skipif(
    not (ROOT / PAGE).is_file(), reason="the documentation is not beside these tests"
)
def test_the_recipes_for_transformers_run(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    model = bridged("llama")
    named = {"prompts": PROMPTS[:1], "target": 3}
    asked = {"source": "blocks.1.hook_mlp_out", "n": 1, "radius": 2.0, "progress": False}
    said = {
        "bank": ts.Bank.from_vectors(model, Additive(1, torch.ones(24)), **named),
        "adapters": ts.elicit(model, perturbation=ts.elicitation.Adapters(), **named, **asked),
        "model": model,
        "hf_model": fresh("llama"),
        "tokenizer": tokenizer(),
    }
    assert len(blocks(PAGE)) == 6
    said = execute(PAGE, given=said)
    assert said["found"].held.scale == pytest.approx(2.0)
