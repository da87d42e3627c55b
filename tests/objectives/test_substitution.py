"""One token of an answer replaced: the published equation, restated one token at a time."""

import pytest
import torch
from conftest import KINDS, PROMPTS, SOURCE, make
from state import snapshot
from two_models import STREAMED, base_of, edits_of, log_probabilities

import tl_steer as ts
from tl_steer.elicitation.aim import Shortest
from tl_steer.errors import SettingError
from tl_steer.models.state import frozen
from tl_steer.objectives import Substitution
from tl_steer.objectives.substitution import substituted
from tl_steer.radii import ShareOfNorm

LAST = "blocks.3.hook_resid_post"


@pytest.fixture(params=STREAMED)
def pair(request):
    return make(request.param), base_of(request.param)


@pytest.fixture
def two(one):
    return one, base_of(next(name for name in KINDS if name.endswith("llama")))


def evaluated(model, goal, edits, gradient=True):
    with frozen(model):
        segment = ts.Segment(model, ts.tokenize(model, PROMPTS), SOURCE, LAST)
        return goal.on(segment)(edits, gradient=gradient)


def restated(model, base, edit, *, along, share, bound, rest):
    """The equation, with the answer that the model gives without the edit."""
    total = 0.0
    for row in ts.tokenize(model, PROMPTS).rows():
        ids, moved, away = row, [], []
        for _ in range(along):
            m, b, clean = (
                log_probabilities(of, ids, under)[-1].double().detach()
                for of, under in ((model, edit), (base, edit), (model, None))
            )
            mixture = (share * b.exp() + (1 - share) * clean.exp()).log()
            moved.append(float((m.exp() * (m - mixture).clamp(max=bound)).sum()))
            away.append(min(8.0, float((m.exp() * (m - clean)).sum())))
            ids = torch.cat([ids, clean.argmax()[None]])
        place = moved.index(max(moved))
        others = sum(away) - away[place]
        total += moved[place] - rest * others / (along - 1)
    return total / len(PROMPTS)


@pytest.mark.parametrize(("share", "bound", "rest"), [(0.5, 2.0, 2.0), (1.0, 0.3, 0.5)])
def test_the_value_is_the_equation(pair, share, bound, rest):
    model, base = pair
    how = {"along": 3, "share": share, "bound": bound, "rest": rest}
    edits = edits_of(model, n=2)
    found = evaluated(model, Substitution(base, **how), edits, gradient=False)
    for v in range(len(edits)):
        expected = restated(model, base, edits.select([v]), **how)
        assert float(found.value[v]) == pytest.approx(expected, abs=1e-4)


def test_the_gradient_equals_finite_differences(two):
    model, base = two
    edits, step = edits_of(model, n=1), 1e-2
    goal = Substitution(base, along=3, bound=50.0)
    (gradient,) = evaluated(model, goal, edits).gradients
    direction = gradient / gradient.norm()
    values = []
    for sign in (1, -1):
        moved = ts.Additive(
            edits.site, edits.vectors.detach() + sign * step * direction, radius=3.0
        )
        values.append(float(evaluated(model, goal, moved, gradient=False).value))
    slope = (values[0] - values[1]) / (2 * step)
    assert slope == pytest.approx(float(gradient.norm()), rel=2e-2)


def test_a_change_of_one_token_counts_and_one_of_all_tokens_does_not():
    before = torch.tensor([0.98, 0.01, 0.01]).log().expand(1, 1, 4, 3)
    other = torch.tensor([0.01, 0.98, 0.01]).log()
    one, all_of = before.clone(), other.expand(1, 1, 4, 3)
    one[0, 0, 2] = other
    how = {"bound": 2.0, "rest": 2.0}
    assert float(substituted(one, before, before, **how)) == pytest.approx(1.9, abs=0.1)
    assert float(substituted(all_of, before, before, **how)) < -5


def test_elicit_climbs_it_and_orders_by_it(two):
    model, base = two
    before = snapshot(model), snapshot(base)
    goal = Substitution(base, along=3)
    bank = ts.elicit(model, PROMPTS, divergence=goal, n=3, radius=2.0, progress=False)
    values = bank.objective.tolist()
    assert values == sorted(values, reverse=True)
    assert "Substitution" in bank.provenance.divergence
    expected = restated(
        model, base, bank[0].perturbation(), along=3, share=0.5, bound=2.0, rest=2.0
    )
    assert values[0] == pytest.approx(expected, abs=1e-3)
    assert (snapshot(model), snapshot(base)) == before


def test_a_length_that_was_found_is_not_sought_again_when_a_run_goes_on(two, tmp_path, monkeypatch):
    model, base = two
    asked = {"divergence": Substitution(base, along=3), "n": 2, "progress": False}
    bank = ts.elicit(model, PROMPTS, checkpoint=tmp_path / "bank", **asked)
    monkeypatch.setattr(Shortest, "__call__", lambda *_: pytest.fail("it is known"))
    again = ts.elicit(model, PROMPTS, resume=tmp_path / "bank", **asked)
    assert again.vectors.equal(bank.vectors)
    assert again.radius == bank.radius


def test_vectors_are_as_short_as_replaces_the_token_and_no_shorter(two, monkeypatch):
    """The first of the lengths whose two best of eight are worth enough; the longest, if none."""
    model, base = two
    goal = Substitution(base, along=3, rest=0)
    asked = {"divergence": goal, "progress": False}

    def two_best(share):
        bank = ts.elicit(model, PROMPTS, n=8, radius=ShareOfNorm(share), **asked)
        return float(bank.objective[:2].mean())

    worth = [two_best(share) for share in goal.lengths]
    for enough, expected in (
        (worth[0] - 1e-4, goal.lengths[0]),
        (max(worth[:2]) + 1e-4, next(s for s, w in zip(goal.lengths, worth, strict=True)
                                     if w >= max(worth[:2]) + 1e-4)),
        (99.0, goal.lengths[-1]),
    ):  # fmt: skip
        monkeypatch.setattr(Substitution, "enough", enough)
        found = ts.elicit(model, PROMPTS, n=2, **asked)
        assert found.radius_share == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"along": 1}, {"share": 0}, {"share": 1.5}, {"bound": 0}, {"rest": -1}]
)
def test_settings_without_a_meaning_are_refused(one, wrong):
    with pytest.raises(SettingError, match="expected along"):
        Substitution(one, **wrong)
