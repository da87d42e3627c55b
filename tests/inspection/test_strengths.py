"""Strengths: every number is what a plain run of the model at that strength gives."""

import dataclasses
import itertools
import json
import math

import pytest
import torch
from conftest import HAS_BRIDGE, PROMPTS, _hugging_face, bank_of, make
from state import snapshot

import tl_steer as ts
from tl_steer.errors import PromptError, SettingError
from tl_steer.inspection import Strength
from tl_steer.models.lookup import resolve

PROMPT = PROMPTS[0]
SCALES = (-2.0, -1.0, 0.5, 1.0, 3.0)
NEW = 6


def measured(model, **settings):
    settings = {"scales": SCALES, "max_new_tokens": NEW, "top": 4} | settings
    return ts.inspection.strengths(model, bank_of(model), PROMPT, **settings)


def steered(model, bank, scale):
    """Logits of the prompt and a greedy continuation, one token at a time, without a cache."""
    ids = ts.tokenize(model, [PROMPT]).ids
    edit = bank.perturbation().scaled(scale)
    with torch.no_grad(), ts.perturbing(model, edit):
        logits = model(ids, return_type="logits")[0]
        for _ in range(NEW):
            following = model(ids, return_type="logits")[0, -1].argmax()
            ids = torch.cat([ids, following[None, None]], dim=1)
    return logits, ids[0, -NEW:]


@pytest.mark.skipif(not HAS_BRIDGE, reason="this TransformerLens has no TransformerBridge")
def test_texts_are_those_of_transformers_with_a_hook_of_its_own():
    model = make("bridge-llama")
    bank, found, plain = bank_of(model), measured(model), _hugging_face("llama").eval()
    ids = ts.tokenize(model, [PROMPT]).ids

    for v, (i, scale) in itertools.product(range(len(bank)), enumerate(SCALES)):
        added = scale * bank.vectors[v]

        def add(module, given, out, added=added):
            return (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added

        hook = plain.model.layers[1].register_forward_hook(add)
        with torch.no_grad():
            new = plain.generate(ids, max_new_tokens=NEW, do_sample=False)[0, ids.shape[1] :]
        hook.remove()
        words = model.tokenizer.decode(until_end(new), skip_special_tokens=True)
        assert found.of(v)[i].text == words


def until_end(new):
    ids = new.tolist()
    return ids[: ids.index(1)] if 1 in ids else ids


def test_kl_and_top_tokens_are_those_of_a_plain_steered_run(model):
    bank, found = bank_of(model), measured(model)
    base = steered(model, bank[0], 0.0)[0].log_softmax(dim=-1)
    for v, one in itertools.product(range(len(bank)), range(len(SCALES))):
        step = found.of(v)[one]
        assert step.scale == SCALES[one]
        logits, _ = steered(model, bank[v], SCALES[one])
        own = logits.log_softmax(dim=-1)
        kl = torch.nn.functional.kl_div(base, own, reduction="none", log_target=True).sum(dim=1)
        torch.testing.assert_close(torch.tensor(step.kl), kl, rtol=1e-3, atol=2e-5)
        p, ids = own[-1].exp().sort(descending=True)
        assert [row[1] for row in step.top] == pytest.approx(p[:4].tolist(), abs=1e-4)
        unsteered = base[-1, ids[:4]].exp().tolist()
        assert [row[2] for row in step.top] == pytest.approx(unsteered, abs=1e-4)


def test_texts_are_those_of_greedy_decoding_without_a_cache(llama):
    bank, found = bank_of(llama), measured(llama)
    for v, (i, scale) in itertools.product(range(len(bank)), enumerate(SCALES)):
        _, new = steered(llama, bank[v], scale)
        words = llama.tokenizer.decode(until_end(new), skip_special_tokens=True)
        assert found.of(v)[i].text == words
    _, own = steered(llama, bank[0], 0.0)
    assert found.unsteered.text == llama.tokenizer.decode(until_end(own), skip_special_tokens=True)
    assert found.unsteered.kl == pytest.approx([0.0] * len(found.tokens), abs=1e-5)


def test_a_text_that_stays_is_not_called_changed(one):
    found = measured(one, scales=(0.001, 1.0))
    changed = [step.changed for step in found.steps]
    assert changed == [step.text != found.unsteered.text for step in found.steps]
    assert set(changed) == {True, False}


def test_surprise_is_the_unsteered_models_nats_above_its_own_text(one):
    bank, found = bank_of(one), measured(one)
    ids = ts.tokenize(one, [PROMPT]).ids[0]

    def nats(new):
        kept = new[: new.tolist().index(1) + 1] if 1 in new.tolist() else new
        whole = torch.cat([ids, kept])
        with torch.no_grad():
            logs = one(whole[None], return_type="logits")[0].log_softmax(dim=-1)
        at = torch.arange(len(ids) - 1, len(whole) - 1)
        return -float(logs[at, whole[1:][at]].mean())

    own = nats(steered(one, bank[0], 0.0)[1])
    for v in range(len(bank)):
        text = steered(one, bank[v], 3.0)[1]
        assert found.of(v)[-1].surprise == pytest.approx(nats(text) - own, abs=1e-3)
    assert found.unsteered.surprise == 0


def test_random_vectors_stand_beside_at_the_same_strengths(one):
    control = ts.random_bank(bank_of(one), n=2, seed=3)
    found = measured(one, control=control)
    alone = ts.inspection.strengths(one, control, PROMPT, scales=SCALES, max_new_tokens=NEW, top=4)
    for scale in SCALES:
        beside = found.random(scale)
        assert [step.vector for step in beside] == [0, 1]
        expected = [step for step in alone.steps if step.scale == scale]
        assert [step.text for step in beside] == [step.text for step in expected]
        for a, b in zip(beside, expected, strict=True):
            assert a.kl == pytest.approx(b.kl, abs=1e-4)
    assert not measured(one).random(1.0)


def test_passes_of_other_sizes_give_the_same(one):
    whole, split = measured(one), measured(one, batch_rows=3)
    assert [s.text for s in whole.steps] == [s.text for s in split.steps]
    for a, b in zip(whole.steps, split.steps, strict=True):
        assert a.kl == pytest.approx(b.kl, abs=1e-4)


def test_rows_are_called_by_their_numbers_in_the_bank(one):
    bank = bank_of(one)[2:]
    found = ts.inspection.strengths(one, bank, PROMPT, vectors=[1], scales=[1], max_new_tokens=2)
    assert found.vectors == (3,)
    assert [step.vector for step in found.steps] == [3]
    with pytest.raises(SettingError, match="there are 3"):
        found.of(2)


def series(*steps, fluent=1.0, salad=5.0):
    """A series by hand: (strength, changed, surprise, repetition)."""
    made = tuple(
        Strength(0, False, float(scale), (0.0,), (), "", float(surprise), float(repeated), changed)
        for scale, changed, surprise, repeated in steps
    )
    none = Strength(-1, False, 0.0, (0.0,), (), "", 0.0, 0.0, False)
    scales = tuple(sorted(float(step[0]) for step in steps))
    return ts.inspection.Strengths(
        "p", ("p",), "s", "t", (0,), ("",), scales, made, none, fluent, salad, {}
    )


def test_the_band_lies_between_the_first_change_and_gibberish():
    # Gibberish is a surprise of 1 + (5 - 1) / 4 = 2.
    found = series((0.5, False, 0, 0), (1, True, 1, 0), (2, True, 3, 0), (-1, True, 0, 0.6))
    leaves, babbles = found.ends(0)
    assert leaves == pytest.approx(math.sqrt(0.5))  # half way in the logarithm
    assert babbles == pytest.approx(math.sqrt(2))
    assert found.ends(0, sign=-1) == (1, 1), "a loop is gibberish"
    quiet = series((1, False, 0, 0), (2, False, 0, 0))
    assert quiet.ends(0) == (math.inf, math.inf)
    assert quiet.ends(0, sign=-1) == (math.inf, math.inf)


def test_a_model_that_finds_salad_no_worse_calls_only_loops_gibberish():
    found = series((1, True, 50, 0.1), fluent=2.0, salad=1.0)
    assert found.gibberish(found.steps[0]) == pytest.approx(0.2)


def test_it_prints_and_is_saved_as_json(one, tmp_path):
    found = measured(one)
    assert "Strengths" in repr(found)
    assert "+0.5" in repr(found)
    told = json.loads(found.save(tmp_path / "strengths.json").read_text())
    assert told["steps"][0]["text"] == found.steps[0].text
    assert told["scales"] == list(SCALES)
    assert told["origin"]["bank"] == bank_of(one).digest()


def test_the_model_is_left_as_it_was(llama):
    before = snapshot(llama)
    measured(llama, control=ts.random_bank(bank_of(llama), n=1), positions=ts.Positions(last=2))
    assert snapshot(llama) == before


def test_bad_arguments_are_refused(one):
    bank = bank_of(one)
    with pytest.raises(SettingError, match="other than 0"):
        measured(one, scales=(0.0, 1.0))
    with pytest.raises(SettingError, match="one or more"):
        measured(one, scales=())
    with pytest.raises(SettingError, match="at least 1 of each"):
        measured(one, top=0)
    with pytest.raises(SettingError, match="rows from 0 to 3"):
        measured(one, vectors=[9])
    with pytest.raises(PromptError, match="got a list of 3"):
        ts.inspection.strengths(one, bank, PROMPTS)
    elsewhere = dataclasses.replace(bank, source=resolve(one, "blocks.2.hook_resid_post"))
    with pytest.raises(SettingError, match="expected additive edits"):
        measured(one, control=elsewhere)
