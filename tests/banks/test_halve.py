"""Successive halving, with generation replaced by a table where the text does not matter."""

import dataclasses
import functools
import itertools
import sys

import conftest
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from state import snapshot

import tl_steer as ts
from tl_steer.banks.control import random_bank
from tl_steer.banks.generations import Generations
from tl_steer.banks.halve import halve, schedule
from tl_steer.banks.rank import SCORES
from tl_steer.errors import NotFiniteError, PromptError, SettingError

VALIDATION = [f"t5 t9 t{i}" for i in range(20, 28)]
HELD_OUT = ["t7 t8 t9", "t3 t4"]


bank_of = functools.partial(conftest.bank_of, n=8)


@pytest.fixture
def spoken(monkeypatch):
    """`generate` says each vector's first label, and the prompts that it was asked for are kept."""
    asked = []

    def fake(model, bank, tokens, **knobs):
        asked.append((len(bank), tokens.texts))
        said = ["0" if label == "random" else label for label in bank.labels]
        return Generations(
            prompts=tokens.texts,
            unsteered=("-1",) * len(tokens),
            texts=tuple((text,) * len(tokens) for text in said),
            labels=bank.labels,
            settings={},
        )

    monkeypatch.setattr(sys.modules["tl_steer.banks.halve"], "generate", fake)
    return asked


def numbered(model, values):
    return dataclasses.replace(bank_of(model, n=len(values)), labels=tuple(map(str, values)))


def worth(prompts, texts):
    return [float(text) for text in texts]


def test_the_best_vectors_win_best_first(one, spoken):
    bank = numbered(one, [3, 1, 7, 2, 9, 4, 5, 6])
    found = halve(one, bank, worth, VALIDATION, held_out=HELD_OUT, keep=2)
    assert found.winners == (4, 2)
    assert found.held_out == found.validation == (9.0, 7.0)
    assert (found.unsteered_validation, found.unsteered_held_out) == (-1.0, -1.0)
    assert found.random_validation == found.random_held_out == (0.0, 0.0)
    assert [(r.vectors, r.prompts) for r in found.rounds] == [(8, 2), (4, 4), (2, 8)]


def test_no_vector_meets_a_prompt_twice_and_losers_meet_few(one, spoken):
    halve(one, numbered(one, range(8)), worth, VALIDATION, held_out=HELD_OUT)
    bank_rounds = spoken[: len(spoken) // 2 - 1]
    assert [n for n, _ in bank_rounds] == [8, 4, 2, 1]
    met = [text for _, texts in bank_rounds for text in texts]
    assert sorted(met) == sorted(VALIDATION)


def test_a_metric_sees_prompts_beside_their_continuations(one):
    bank = bank_of(one, n=3)
    texts = ts.generate(one, bank, VALIDATION + HELD_OUT, max_new_tokens=4)
    true = {(p, t[i]) for t in (*texts.texts, texts.unsteered) for i, p in enumerate(texts.prompts)}
    random = ts.generate(one, ts.random_bank(bank), VALIDATION + HELD_OUT, max_new_tokens=4)
    true |= {(p, t[i]) for t in random.texts for i, p in enumerate(random.prompts)}
    seen = set()

    def metric(prompts, texts):
        seen.update(zip(prompts, texts, strict=True))
        return [float(len(set(text))) for text in texts]

    before = snapshot(one)
    found = halve(one, bank, metric, VALIDATION, held_out=HELD_OUT, max_new_tokens=4)
    assert seen <= true
    assert {prompt for prompt, _ in seen} == set(VALIDATION + HELD_OUT)
    assert set(found.winners) <= {0, 1, 2}
    assert snapshot(one) == before


def test_prompts_that_chose_cannot_report(one):
    with pytest.raises(PromptError, match="Held-out prompt 1"):
        halve(one, bank_of(one), worth, VALIDATION, held_out=["t1 t2", VALIDATION[3]])


def test_bad_metrics_and_settings_are_refused(one, spoken):
    bank = numbered(one, range(4))
    with pytest.raises(SettingError, match="one each"):
        halve(one, bank, lambda p, t: [1.0], VALIDATION, held_out=HELD_OUT)
    with pytest.raises(NotFiniteError, match="nan"):
        halve(one, bank, lambda p, t: [float("nan")] * len(t), VALIDATION, held_out=HELD_OUT)
    for keep in (0, 5):
        with pytest.raises(SettingError, match="keep"):
            halve(one, bank, worth, VALIDATION, held_out=HELD_OUT, keep=keep)


@given(st.integers(1, 600), st.integers(1, 100), st.data())
def test_the_schedule_halves_vectors_and_ends_with_all_prompts(vectors, prompts, data):
    keep = data.draw(st.integers(1, vectors))
    plan = schedule(vectors, prompts, keep)
    assert plan[0][0] == vectors
    assert plan[-1] == (keep, prompts)
    for (n, few), (m, more) in itertools.pairwise(plan):
        assert m == max(keep, -(-n // 2))
        assert 1 <= few <= more <= 2 * few + 1


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(st.integers(0, 50), min_size=2, max_size=9), data=st.data())
def test_winners_are_a_subset_and_none_is_beaten_by_a_loser(one, spoken, values, data):
    bank = random_bank(numbered(one, [0]), n=len(values))
    bank = dataclasses.replace(bank, labels=tuple(map(str, values)))
    keep = data.draw(st.integers(1, len(values)))
    found = halve(one, bank, worth, VALIDATION, held_out=HELD_OUT, keep=keep)
    assert len(set(found.winners)) == keep
    assert list(found.held_out) == sorted(map(float, values), reverse=True)[:keep]
    for earlier, later in itertools.pairwise(found.rounds):
        assert set(later.kept) <= set(earlier.kept)


def test_prompts_come_in_an_order_that_the_seed_fixes(one, spoken):
    def first_met(seed):
        spoken.clear()
        halve(one, numbered(one, range(8)), worth, VALIDATION, held_out=HELD_OUT, seed=seed)
        return spoken[0][1]

    orders = [first_met(seed) for seed in (0, 0, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert len(set(orders)) > 2
    assert all(len(met) == 1 and met[0] in VALIDATION for met in orders)


def test_keeping_all_is_one_round_on_all_prompts(one, spoken):
    found = halve(one, numbered(one, [2, 5, 3]), worth, VALIDATION, held_out=HELD_OUT, keep=3)
    assert [(r.vectors, r.prompts, r.best) for r in found.rounds] == [(3, 8, 5.0)]
    assert found.winners == (1, 2, 0)
    assert found.labels == ("5", "3", "2")


def test_ties_keep_the_banks_order(one, spoken):
    found = halve(one, numbered(one, [1, 4, 4, 1]), worth, VALIDATION, held_out=HELD_OUT, keep=2)
    assert found.winners == (1, 2)


def test_a_selection_says_how_it_was_made(one, monkeypatch):
    knobs, met = [], []

    def fake(model, bank, tokens, **given):
        knobs.append(given)
        met.append(bank.vectors)
        texts = (("1",) * len(tokens),) * len(bank)
        return Generations(tokens.texts, ("0",) * len(tokens), texts, bank.labels, {})

    monkeypatch.setattr(sys.modules["tl_steer.banks.halve"], "generate", fake)
    found = halve(
        one,
        bank_of(one),
        worth,
        VALIDATION,
        held_out=HELD_OUT,
        keep=2,
        max_new_tokens=7,
        batch_rows=3,
        seed=5,
    )
    assert all(given == {"max_new_tokens": 7, "batch_rows": 3} for given in knobs)
    control = random_bank(bank_of(one), seed=5).vectors
    assert sum(vectors.equal(control) for vectors in met) == 1
    assert found.settings == {
        "keep": 2,
        "max_new_tokens": 7,
        "seed": 5,
        "vectors": 8,
        "validation": 8,
        "held_out": 2,
    }


def test_the_bare_model_is_judged_on_the_validation_prompts_too(one, monkeypatch):
    """Its mean is over all of them, though they are met in rounds."""
    asked = {text: float(i) for i, text in enumerate(VALIDATION + HELD_OUT)}

    def fake(model, bank, tokens, **knobs):
        said = tuple(str(asked[text]) for text in tokens.texts)
        return Generations(tokens.texts, said, (said,) * len(bank), bank.labels, {})

    monkeypatch.setattr(sys.modules["tl_steer.banks.halve"], "generate", fake)
    found = halve(one, bank_of(one), worth, VALIDATION, held_out=HELD_OUT)
    assert found.unsteered_validation == sum(range(8)) / 8
    assert found.unsteered_held_out == 8.5
    assert (found.validation, found.held_out) == ((3.5,), (8.5,))
    assert (found.random_validation, found.random_held_out) == ((3.5,), (8.5,))


def test_one_token_and_one_row_at_a_time_are_enough_to_ask_for(one, spoken):
    knobs = {"max_new_tokens": 1, "batch_rows": 1, "keep": 1}
    found = halve(one, numbered(one, [1, 2]), worth, VALIDATION, held_out=HELD_OUT, **knobs)
    assert found.winners == (1,)


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_a_metric_without_bounds_is_refused(one, spoken, value):
    with pytest.raises(NotFiniteError, match="inf"):
        halve(
            one,
            numbered(one, range(4)),
            lambda p, t: [value] * len(t),
            VALIDATION,
            held_out=HELD_OUT,
        )


@pytest.mark.parametrize("knobs", [{"max_new_tokens": 0}, {"batch_rows": 0}, {"keep": 9}])
def test_numbers_below_one_are_refused_before_any_work(one, spoken, knobs):
    with pytest.raises(SettingError, match="at least 1 of each"):
        halve(one, numbered(one, range(8)), worth, VALIDATION, held_out=HELD_OUT, **knobs)
    assert spoken == []


def test_it_saves_and_shows(one, spoken, tmp_path):
    found = halve(one, numbered(one, range(4)), worth, VALIDATION, held_out=HELD_OUT)
    assert '"held_out": [3.0]' in found.save(tmp_path / "s.json").read_text()
    for text in (repr(found), found._repr_html_()):
        assert "held out" in text
        assert "unsteered" in text
    assert len(found) == 1


@pytest.mark.parametrize("name", ["switch", "next_token_kl"])
def test_a_score_that_needs_no_label_chooses_by_its_name(one, name):
    """Every round's prompts together count for as much as they are."""
    bank = bank_of(one, n=4)
    found = halve(one, bank, name, VALIDATION, held_out=HELD_OUT, keep=2)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0)).tolist()
    known = ts.tokenize(one, VALIDATION).take(order)
    with ts.models.frozen(one), torch.no_grad():

        def score(rows, first, last):
            return SCORES[name](one, bank[rows], known.take(range(first, last)))

        first = score([0, 1, 2, 3], 0, 4)
        alive = sorted(first.argsort(descending=True, stable=True)[:2].tolist())
        means = (first[alive] + score(alive, 4, 8)) / 2
        held_out = SCORES[name](one, bank[alive], ts.tokenize(one, HELD_OUT))
    best = means.argsort(descending=True, stable=True)
    assert found.winners == tuple(alive[i] for i in best.tolist())
    assert found.validation == pytest.approx(means[best].tolist(), abs=1e-4)
    assert found.held_out == pytest.approx(held_out[best].tolist(), abs=1e-4)
    # Nothing is moved, and nothing is said that was not likely.
    assert found.unsteered_validation == found.unsteered_held_out == pytest.approx(0, abs=1e-5)
    assert found.settings["metric"] == name


def test_scores_that_are_none_are_refused_before_any_work(one):
    with pytest.raises(SettingError, match=r"there are response_norm.*switch"):
        halve(one, bank_of(one), "beauty", VALIDATION, held_out=HELD_OUT)
    with pytest.raises(NotFiniteError, match="gave nan"):
        halve(one, bank_of(one), "growth", VALIDATION, held_out=HELD_OUT)
