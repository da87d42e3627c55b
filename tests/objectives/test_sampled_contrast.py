"""Answers that are drawn: by their probabilities, and the same whenever and beside whom."""

import dataclasses

import pytest
import torch
from conftest import KINDS, PROMPTS, SOURCE, make
from two_models import STREAMED, base_of, edits_of, slowly

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.methods import Ascent
from tl_steer.models.draw import Draw
from tl_steer.models.state import frozen
from tl_steer.objectives import Contrast

LAST = "blocks.3.hook_resid_post"
HOT = {"along": 3, "temperature": 2.0, "seed": 5}


@pytest.fixture(params=STREAMED)
def pair(request):
    return make(request.param), base_of(request.param)


@pytest.fixture
def two(one):
    return one, base_of(next(name for name in KINDS if name.endswith("llama")))


def evaluated(model, contrast, edits, step, vec_batch=None):
    with frozen(model):
        segment = ts.Segment(model, ts.tokenize(model, PROMPTS), SOURCE, LAST)
        return contrast.on(segment, vec_batch=vec_batch)(edits, step=step)


def test_tokens_are_drawn_as_often_as_they_are_likely():
    chances = torch.tensor([0.5, 0.0, 0.3, 0.2])
    for temperature in (1.0, 2.0):
        expected = chances ** (1 / temperature) / (chances ** (1 / temperature)).sum()
        drawn = torch.cat(
            [Draw(temperature, 3, step)(chances.log().expand(1, 50, 4), 1)[0] for step in range(80)]
        )
        found = torch.bincount(drawn, minlength=4) / len(drawn)
        torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_seeds_steps_places_and_prompts_draw_apart_and_edits_alike():
    flat = torch.zeros(2, 40, 101)
    first = Draw(1.0, 3, 4)(flat, 1)
    assert torch.equal(first, Draw(1.0, 3, 4)(flat, 1))
    assert torch.equal(first[0], first[1])
    assert len(first[0].unique()) > 20
    for other, place in ((Draw(1.0, 4, 4), 1), (Draw(1.0, 3, 5), 1), (Draw(1.0, 3, 4), 2)):
        assert float((other(flat, place) == first).float().mean()) < 0.2


def test_the_value_is_the_equation_along_the_drawn_answer(pair):
    model, base = pair
    edits = edits_of(model, n=2)
    at = evaluated(model, Contrast(base, **HOT), edits, step=7)

    def drawn(logs, prompt, place):
        logits = logs.expand(1, len(PROMPTS), -1)
        return int(Draw(2.0, 5, 7)(logits, place)[0, prompt])

    for v in range(len(edits)):
        value, lead = slowly(
            model, base, edits.select([v]), along=3, share=0.5, bound=5.0, choose=drawn
        )
        assert float(at.value[v]) == pytest.approx(value, abs=1e-4)
        assert float(at.scores["lead"][v]) == pytest.approx(lead, abs=1e-3)


def test_what_is_drawn_does_not_hang_on_who_is_beside(two):
    model, base = two
    edits, contrast = edits_of(model, n=5), Contrast(base, **HOT)
    whole = evaluated(model, contrast, edits, step=2)
    parts = evaluated(model, contrast, edits, step=2, vec_batch=2)
    torch.testing.assert_close(whole.value, parts.value, atol=1e-5, rtol=1e-5)
    other = evaluated(model, contrast, edits, step=3)
    assert not torch.allclose(whole.value, other.value, atol=1e-3)


def test_where_nothing_is_climbed_answers_are_greedy(two):
    model, base = two
    edits = edits_of(model)
    drawn, greedy = (
        evaluated(model, of, edits, step=None) for of in (Contrast(base, **HOT), Contrast(base, 3))
    )
    assert torch.equal(drawn.value, greedy.value)


class Broken(Exception):
    pass


@dataclasses.dataclass(frozen=True)
class Breaking(Ascent):
    """Breaks off behind its second step, when it begins."""

    def __call__(self, objective, start, *, resume=None):
        for iterate in super().__call__(objective, start, resume=resume):
            yield iterate
            if iterate.step == 2 and not resume:
                raise Broken


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(two, tmp_path):
    model, base = two
    how = {"divergence": Contrast(base, **HOT), "n": 2, "radius": 3.0, "progress": False}
    method, path = Breaking(steps=4, keep="lead"), tmp_path / "run"
    plain = Ascent(steps=4, keep="lead")
    whole = ts.elicit(model, PROMPTS, method=plain, **how)
    with pytest.raises(Broken):
        ts.elicit(model, PROMPTS, method=method, checkpoint=path, every=0, **how)
    torch.rand(3)
    found = ts.elicit(model, PROMPTS, method=method, resume=path, **how)
    assert torch.equal(found.vectors, whole.vectors)
    how["divergence"] = Contrast(base, 3)
    greedy = ts.elicit(model, PROMPTS, method=plain, **how)
    assert not torch.equal(whole.vectors, greedy.vectors)


def test_temperatures_and_seeds_that_mean_nothing_are_refused(one):
    for wrong in ({"temperature": -1.0}, {"temperature": float("inf")}, {"seed": -1}):
        with pytest.raises(SettingError, match="expected a finite temperature"):
            Contrast(one, **wrong)
