"""Steered generation: a row in a batch gives what it gives alone."""

import dataclasses
import functools

import pytest
import torch
from conftest import HAS_BRIDGE, KINDS, LLAMAS, PROMPTS, SOURCE, TARGET, bank_of
from state import snapshot

import tl_steer as ts
from tl_steer.banks.generate import texts_by_row
from tl_steer.errors import PromptError, SettingError
from tl_steer.models.rows import continued, through_end, until_end
from tl_steer.monitoring.identity import identity_of

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


def third_token(model, prompt, n=3):
    """The third token of the greedy answer, as one that ends it."""
    ids = ts.tokenize(model, [prompt]).ids
    for _ in range(n):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids)[:, -1:].argmax(dim=-1)], dim=1)
    return int(ids[0, -1])


def named_by(model, where, ends):
    """Let a config of the model name the tokens that end an answer."""
    inside = getattr(model, "original_model", None)
    holder = {"cfg": model.cfg, "config": getattr(inside, "config", None)}.get(where)
    holder = holder or getattr(inside, "generation_config", None)
    if holder is None:
        pytest.skip("HookedTransformer has one config")
    holder.eos_token_id = ends


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("where", ["generation_config", "config", "cfg"])
@pytest.mark.parametrize("kind", LLAMAS)
def test_an_answer_ends_where_any_config_says(kind, where, several):
    model = KINDS[kind]()
    bank = bank_of(model)
    prompt = PROMPTS[0]
    end = third_token(model, prompt)
    whole = ts.generate(model, bank[:1], [prompt], max_new_tokens=8).unsteered[0].split()
    assert len(whole) == 8
    named_by(model, where, [1, end] if several else end)
    cut = ts.generate(model, bank[:1], [prompt], max_new_tokens=8).unsteered[0].split()
    first = whole.index(model.tokenizer.decode([end]))
    assert cut == whole[:first]
    traffic = ts.monitoring.observe(model, [prompt], sites=[TARGET], horizon=6)
    assert traffic.answers == (" ".join(cut),)
    assert identity_of(model, ts.tokenize(model, [prompt]), [TARGET]).ends == (1, end)
    swept = ts.sweep(
        model, bank[:1], [prompt], metrics=["repetition"], generate=8, n_random=0, progress=False
    )
    assert " ".join(cut) in swept.cells()["text"].to_pylist()


@pytest.mark.skipif(not HAS_BRIDGE, reason="transformers' own generate is a bridge's")
def test_an_answer_ends_where_transformers_would_end_it():
    model = KINDS["bridge-llama"]()
    end = third_token(model, PROMPTS[0])
    model.original_model.generation_config.eos_token_id = [1, end]
    new = continued(model, ts.tokenize(model, PROMPTS[:1]).ids, 8)[0]
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    theirs = model.original_model.generate(ids, max_new_tokens=8, do_sample=False)[
        0, ids.shape[1] :
    ]
    kept = through_end(model, new)
    assert kept.tolist() == theirs.tolist()  # the end that was said, and none that fills the row
    assert until_end(model, new).tolist() == theirs[:-1].tolist()


def test_a_generate_that_cannot_be_told_of_ends_is_cut_behind_them(one, monkeypatch):
    plain = type(one).generate

    def generate(ids, max_new_tokens, **knobs):
        return plain(one, ids, max_new_tokens=max_new_tokens, **knobs)

    prompt, end = PROMPTS[0], third_token(one, PROMPTS[0])
    whole = continued(one, ts.tokenize(one, [prompt]).ids, 8)[0].tolist()
    monkeypatch.setattr(one, "generate", generate)
    monkeypatch.setattr(one.cfg, "eos_token_id", [end], raising=False)
    new = continued(one, ts.tokenize(one, [prompt]).ids, 8)[0]
    assert until_end(one, new).tolist() == whole[: whole.index(end)]


@pytest.mark.parametrize("cached", [True, False])
def test_tokens_are_heard_one_by_one_as_they_come(model, cached):
    ids = ts.tokenize(model, PROMPTS[:1]).ids.repeat(2, 1)
    told: list[torch.Tensor] = []
    with torch.no_grad():
        new = continued(model, ids, 6, cached=cached, heard=told.append)
    assert not new.is_inference()
    # Rows that have ended are filled, and generation ends with the last of them, which a
    # HookedTransformer embeds too.
    assert [len(each[0]) for each in told] == list(range(1, len(told) + 1))
    assert len(told) == new.shape[1] - hasattr(model, "original_model")
    assert all(torch.equal(each, new[:, : each.shape[1]]) for each in told)


def test_who_hears_can_end_the_generation_and_leaves_nothing_behind(llama):
    class Enough(Exception):
        pass

    def heard(rows, texts):
        told.append(texts)
        if len(told) == 2:
            raise Enough

    told: list[list[str]] = []
    bank, tokens = steered_bank(llama), ts.tokenize(llama, PROMPTS[:1])
    before = snapshot(llama)
    with pytest.raises(Enough), torch.no_grad():
        texts_by_row(llama, bank.perturbation(), tokens, 6, {}, heard=heard)
    assert snapshot(llama) == before
    whole = ts.generate(llama, bank, PROMPTS[:1], max_new_tokens=2)
    assert told[-1] == [texts[0] for texts in whole.texts]
