"""Steered generation: a row in a batch gives what it gives alone."""

import dataclasses
import functools

import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from state import snapshot

import tl_steer as ts
from tl_steer.errors import PromptError, SettingError

FAST = {"source": SOURCE, "target": TARGET, "n": 3, "radius": 4.0, "progress": False}
MEASURED = ts.Positions(last=1, bos=False)


@functools.cache
def steered_bank(model):
    return ts.elicit(model, PROMPTS, **FAST, measured=MEASURED)


def by_hand(model, prompt, bank=None, n=6):
    """One prompt, one vector, plain TransformerLens."""
    ids = ts.tokenize(model, [prompt]).ids
    hooks = bank.hooks() if bank is not None else []
    for _ in range(n):
        with torch.no_grad():
            logits = model.run_with_hooks(ids, fwd_hooks=hooks)
        ids = torch.cat([ids, logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    new = ids[0, -n:].tolist()
    new = new[: new.index(1)] if 1 in new else new
    return model.tokenizer.decode(new, skip_special_tokens=True)


def test_every_row_equals_plain_greedy_decoding_alone(model):
    bank = steered_bank(model)
    out = ts.generate(model, bank, PROMPTS, max_new_tokens=6)
    for p, prompt in enumerate(PROMPTS):
        assert out.unsteered[p] == by_hand(model, prompt)
        for v in range(3):
            assert out.texts[v][p] == by_hand(model, prompt, bank[v])
    assert out.changed() > 0


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_the_batch_size_does_not_matter(llama, rows):
    bank = steered_bank(llama)
    whole = ts.generate(llama, bank, PROMPTS, max_new_tokens=5)
    assert ts.generate(llama, bank, PROMPTS, max_new_tokens=5, batch_rows=rows) == whole


def test_cached_equals_uncached(model):
    bank = steered_bank(model)
    cached = ts.generate(model, bank, PROMPTS, max_new_tokens=5)
    assert ts.generate(model, bank, PROMPTS, max_new_tokens=5, use_past_kv_cache=False) == cached


def test_cached_equals_uncached_with_chosen_positions(llama):
    for positions in (ts.Positions(last=1), ts.Positions(last=0), ts.Positions(generated=False)):
        bank = dataclasses.replace(steered_bank(llama)[:2], positions=positions)
        cached = ts.generate(llama, bank, PROMPTS, max_new_tokens=5)
        plain = ts.generate(llama, bank, PROMPTS, max_new_tokens=5, use_past_kv_cache=False)
        assert cached == plain


def test_sampling_is_fixed_by_the_seed_and_leaves_the_random_state(model):
    bank = steered_bank(model)
    before = snapshot(model)
    draws = [
        ts.generate(model, bank, PROMPTS, max_new_tokens=6, temperature=1.5, seed=s)
        for s in (1, 1, 2)
    ]
    assert draws[0] == draws[1]
    assert draws[0].texts != draws[2].texts
    assert snapshot(model) == before


def test_generation_stops_at_the_end_of_text(one):
    bank = steered_bank(one)
    out = ts.generate(one, bank, PROMPTS, max_new_tokens=30)
    assert all("</s>" not in text for row in out.texts for text in row)


def test_results_save_and_show(one, tmp_path):
    out = ts.generate(one, steered_bank(one), PROMPTS, max_new_tokens=3)
    text = out.save(tmp_path / "g.json").read_text()
    assert '"unsteered"' in text
    assert "unsteered" in repr(out)
    assert "<table>" in out._repr_html_()
    assert (len(out), out[0]) == (3, out.texts[0])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"max_new_tokens": 0}, "at least 1"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": 5}, "give a temperature"),
        ({"batch_rows": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused(one, knobs, message):
    before = snapshot(one)
    with pytest.raises(SettingError, match=message):
        ts.generate(one, steered_bank(one), PROMPTS, **knobs)
    with pytest.raises(PromptError):
        ts.generate(one, steered_bank(one), [])
    assert snapshot(one) == before
