"""Whether a model's generation can be trusted with padding is found out, and not assumed."""

import weakref

import pytest
import torch
from conftest import HAS_BRIDGE, PROMPTS, make
from state import snapshot

import tl_steer as ts
from tl_steer.models import padded
from tl_steer.models.rows import continued


@pytest.fixture(autouse=True)
def _anew(monkeypatch):
    monkeypatch.setattr(padded, "_known", weakref.WeakKeyDictionary())


def test_prompts_are_padded_on_the_left_with_a_mask(one):
    tokens = ts.tokenize(one, PROMPTS)
    ids, mask = padded.left_padded(tokens)
    for row, own, real in zip(tokens.rows(), ids, mask.bool(), strict=True):
        assert own[real].tolist() == row.tolist()
        assert bool(real[-len(row) :].all())
        assert int(real.sum()) == len(row)


def test_models_that_take_padding_say_the_same_behind_it(model):
    before = snapshot(model)
    takes = padded.takes_padding(model)
    assert snapshot(model) == before
    if not takes:
        pytest.skip("this one is answered by length")
    tokens = ts.tokenize(model, PROMPTS)
    ids, mask = padded.left_padded(tokens)
    with torch.no_grad():
        together = continued(model, ids, 6, attention_mask=mask)
        for row, said in zip(tokens.rows(), together, strict=True):
            alone = continued(model, row[None], 6)[0]
            assert said[: len(alone)].tolist() == alone.tolist()


@pytest.mark.skipif(not HAS_BRIDGE, reason="HookedTransformer's generate takes no mask")
@pytest.mark.parametrize("name", ["bridge-llama", "bridge-gpt2"])
def test_a_model_that_lets_prompts_see_padding_is_found_out(name, monkeypatch):
    model = make(name)
    assert padded.takes_padding(model)
    plain = type(model).generate

    def unmasked(self, ids, *, attention_mask=None, **how):
        return plain(self, ids, **how)

    padded._known.clear()
    monkeypatch.setattr(type(model), "generate", unmasked)
    assert not padded.takes_padding(model)


def test_a_model_without_a_mask_is_not_an_error(one, monkeypatch):
    plain = type(one).generate

    def without(self, ids, **how):
        if "attention_mask" in how:
            raise TypeError("generate() got an unexpected keyword argument")
        return plain(self, ids, **how)

    monkeypatch.setattr(type(one), "generate", without)
    assert not padded.takes_padding(one)
