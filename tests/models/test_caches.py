"""Generation that forgets its prompt is refused before anything is made of it."""

import pytest
import torch
from conftest import KINDS, LLAMAS, PROMPTS, TARGET, bank_of
from state import snapshot
from tiny_monitor import monitor_of

import tl_steer as ts
from tl_steer.errors import ModelError
from tl_steer.models.caches import refuse_broken_cache
from tl_steer.monitoring.traffic import observe


def forgetful(model, monkeypatch):
    """A model whose cache is not looked at: every new token is read as if it were the first."""

    def generate(ids, max_new_tokens, **settings):
        read = ids
        for _ in range(max_new_tokens):
            new = model(read, return_type="logits")[:, -1:].argmax(dim=-1)
            ids, read = torch.cat([ids, new], dim=1), new
        return ids

    monkeypatch.setattr(model, "generate", generate)
    return model


@pytest.fixture(params=LLAMAS)
def make(request):
    """Makes models that no other test has looked at."""
    return KINDS[request.param]


def test_a_sound_cache_is_looked_at_once_and_the_model_stays_as_it_was(model, monkeypatch):
    before = snapshot(model)
    refuse_broken_cache(model)
    assert snapshot(model) == before

    def never(*_args, **_settings):
        raise AssertionError("asked again")

    monkeypatch.setattr(model, "generate", never)
    refuse_broken_cache(model)


USES = {
    "generate": lambda model, bank: ts.generate(model, bank, PROMPTS, max_new_tokens=2),
    "observe": lambda model, _: observe(model, PROMPTS, sites=[TARGET], horizon=2),
    "sweep": lambda model, bank: ts.sweep(
        model, bank, PROMPTS, metrics=["perplexity"], generate=2, progress=False
    ),
    "dose": lambda model, bank: ts.dose_response(
        model, bank, PROMPTS, shares=[0.1], max_new_tokens=2
    ),
}


@pytest.mark.parametrize("use", USES)
def test_a_model_that_forgets_its_prompt_is_refused(make, use, monkeypatch):
    model = make()
    bank = bank_of(model)
    with pytest.raises(ModelError, match="does not see the prompt"):
        USES[use](forgetful(model, monkeypatch), bank)


def test_watching_a_model_that_forgets_its_prompt_is_refused(make, monkeypatch):
    monitor, other = monitor_of(make()), forgetful(make(), monkeypatch)
    with (
        pytest.raises(ModelError, match="does not see the prompt"),
        ts.watch(other, monitor, alpha=0.1),
    ):
        pass
