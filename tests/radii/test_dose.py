"""Dose and response, against one vector at a time and plain TransformerLens."""

import dataclasses
import functools

import conftest
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET
from linear import LinearHost
from state import snapshot

import tl_steer as ts
from tl_steer.errors import ForeignModelError, ModelError, SettingError
from tl_steer.models.rows import Row
from tl_steer.models.segment import Segment
from tl_steer.radii.dose import dose_response
from tl_steer.radii.fluency import Judge, repetition

FAST = {"shares": (0.2, 2.0), "max_new_tokens": 4}


bank_of = functools.partial(conftest.bank_of, n=2)


def nats_by_hand(model, prompt, new):
    ids = torch.cat([prompt, torch.tensor(new)])
    with torch.no_grad():
        logprobs = model(ids[None], return_type="logits")[0].log_softmax(-1)
    at = range(len(prompt) - 1, len(ids) - 1)
    return -sum(float(logprobs[i, ids[i + 1]]) for i in at) / len(new)


def test_every_dose_is_what_that_vector_gives_alone(llama):
    bank = bank_of(llama)
    found = dose_response(llama, bank, PROMPTS, **FAST, n_random=0)
    norm = Segment(llama, ts.tokenize(llama, PROMPTS), SOURCE, TARGET).source_norm()
    assert len(found.doses) == 2 * 2 * 2 * 3
    for dose in found.doses:
        assert dose.radius == pytest.approx(dose.share * norm, rel=1e-5)
        vector = dose.sign * dose.radius / 3.0 * bank.vectors[[dose.vector]]
        alone = dataclasses.replace(bank[dose.vector], vectors=vector)
        ids = ts.tokenize(llama, [PROMPTS[dose.prompt]]).ids
        with torch.no_grad():
            p = llama.run_with_hooks(ids, fwd_hooks=alone.hooks())[0, -1].log_softmax(-1)
            q = llama(ids)[0, -1].log_softmax(-1)
        assert dose.kl == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-5)
        texts = ts.generate(llama, alone, [PROMPTS[dose.prompt]], max_new_tokens=4)
        assert (dose.text, found.unsteered[dose.prompt]) == (texts[0][0], texts.unsteered[0])
    assert any(dose.changed for dose in found.doses)


def test_surprise_is_the_unsteered_models_mean_log_likelihood(llama):
    tokens = ts.tokenize(llama, PROMPTS)
    own = [torch.tensor([5, 6, 7]), torch.tensor([9]), torch.tensor([4, 4, 4, 4])]
    texts = {
        Row(0, 0): torch.tensor([8, 30, 31]),
        Row(1, 0): torch.tensor([8, 30]),
        Row(0, 1): torch.tensor([8, 30, 31, 3]),
        Row(2, 0): torch.tensor([8, 30, 31]),
    }
    for batch_rows in (1, 64):
        surprise = Judge(llama, tokens, own, batch_rows).surprise(texts)
        for row, new in texts.items():
            prompt = tokens.rows()[row.prompt]
            expected = nats_by_hand(llama, prompt, new.tolist())
            expected -= nats_by_hand(llama, prompt, own[row.prompt].tolist())
            assert surprise[row] == pytest.approx(expected, abs=1e-4)


def test_the_models_own_continuation_is_no_surprise(one):
    found = dose_response(one, bank_of(one), PROMPTS, shares=(1e-6,), max_new_tokens=4, n_random=0)
    for dose in found.doses:
        assert not dose.changed
        assert dose.surprise == 0.0
        assert dose.kl == pytest.approx(0.0, abs=1e-5)


def test_batches_do_not_matter_and_the_model_is_as_before(one):
    bank, before = bank_of(one), snapshot(one)
    whole = dose_response(one, bank, PROMPTS, **FAST)
    small = dose_response(one, bank, PROMPTS, **FAST, batch_rows=3)
    assert snapshot(one) == before
    for a, b in zip(whole.doses, small.doses, strict=True):
        assert (a.text, a.sign, a.vector, a.control) == (b.text, b.sign, b.vector, b.control)
        assert a.surprise == pytest.approx(b.surprise, abs=1e-4)
    assert (whole.fluent, whole.salad) == pytest.approx((small.fluent, small.salad), abs=1e-4)


def test_random_vectors_stand_beside_the_bank_in_the_same_table(one):
    found = dose_response(one, bank_of(one), PROMPTS[:1], **FAST)
    for radius in found.radii:
        assert len(found.at(radius, control=True)) == 2
        assert len(found.at(radius)) == 4
    assert repr(found).count("random") == 2


def test_repetition_counts_pairs_that_came_before():
    assert repetition(torch.tensor([1, 2, 3, 4])) == 0
    assert repetition(torch.tensor([7, 7, 7, 7, 7])) == 0.75
    assert repetition(torch.tensor([1, 2, 1, 2, 1])) == 0.5
    assert repetition(torch.tensor([1])) == 0


@pytest.mark.parametrize(
    "knobs",
    [
        {"shares": ()},
        {"shares": (0.0,)},
        {"signs": ()},
        {"signs": (1, 1)},
        {"signs": (2,)},
        {"max_new_tokens": 0},
        {"batch_rows": 0},
        {"n_random": -1},
    ],
)
def test_bad_settings_are_refused(one, knobs):
    with pytest.raises(SettingError, match="expected"):
        dose_response(one, bank_of(one), PROMPTS, **knobs)


def test_vectors_without_a_direction_are_refused(one):
    bank = bank_of(one)
    with pytest.raises(SettingError, match="zeros"):
        dose_response(one, dataclasses.replace(bank, vectors=bank.vectors * 0), PROMPTS)


def test_foreign_banks_and_models_without_generation_are_refused(one):
    host = LinearHost([torch.eye(24), torch.eye(24)])
    with pytest.raises(ForeignModelError):
        dose_response(host, bank_of(one), ["1 2 3"])
    site = {"source": "blocks.0.hook_resid_post", "target": "blocks.1.hook_resid_post"}
    bank = ts.elicit(host, ["1 2 3 4"], **site, n=2, radius=1.0, progress=False)
    with pytest.raises(ModelError, match="generate"):
        dose_response(host, bank, ["1 2 3 4"])
