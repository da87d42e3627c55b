"""False alarms come as often as asked for, and no oftener."""

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import beta, kstest

from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.monitoring.statistics.conformal import (
    Guarantee,
    needed,
    p_values,
    step_down,
    threshold,
)
from tl_steer.monitoring.statistics.drift import Drift

# Few values, so that ties are common.
scores = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=30)


@given(scores, st.integers(-5, 5).map(float))
def test_a_p_value_is_the_rank_among_clean_scores_counted_one_by_one(clean, score):
    found = float(p_values(torch.tensor(clean), torch.tensor(score)))
    assert found == (1 + sum(c >= score for c in clean)) / (len(clean) + 1)


@given(scores)
def test_over_any_set_of_scores_with_any_ties_p_is_at_most_alpha_often_enough(everything):
    """Exchangeability: each of the n + 1 is as likely to be the new one."""
    if len(everything) < 2:
        return
    ps = []
    for i, new in enumerate(everything):
        rest = torch.tensor(everything[:i] + everything[i + 1 :])
        ps.append(float(p_values(rest, torch.tensor(new))))
    for alpha in {*ps, 0.1, 0.5}:
        assert sum(p <= alpha for p in ps) <= alpha * len(ps) + 1e-9


@given(scores, st.fractions(Fraction(1, 100), Fraction(99, 100)).map(lambda f: round(float(f), 3)))
def test_exceeding_the_threshold_is_having_a_small_p_value(clean, alpha):
    kept = torch.tensor(clean)
    if math.floor(Fraction(str(alpha)) * (len(clean) + 1)) < 1:
        with pytest.raises(SettingError, match="Use at least"):
            threshold(kept, alpha)
        return
    limit = threshold(kept, alpha)
    for score in sorted({*clean, -9.0, 9.0, 0.5}):
        p = Fraction(1 + sum(c >= score for c in clean), len(clean) + 1)
        assert (score > limit) == (p <= Fraction(str(alpha))), (score, limit)


def test_scores_of_lower_precision_tie_with_themselves():
    kept = torch.tensor([0.1, 0.2, 0.3])
    assert float(p_values(kept, torch.tensor([0.3]).double())) == 0.5
    assert torch.equal(p_values(kept, kept), torch.tensor([1.0, 0.75, 0.5]).double())


def test_alpha_below_what_n_resolves_is_refused_with_the_number_needed():
    assert needed(0.01) == 99
    assert needed(0.05) == 19
    assert Guarantee(0.01, 99).allowed == 1
    with pytest.raises(SettingError, match="Use at least 99"):
        Guarantee(0.01, 98)
    # 0.29 * 100 is 28.999999999999996 in floats.
    assert Guarantee(0.29, 99).allowed == 29
    with pytest.raises(SettingError, match="between 0 and 1"):
        Guarantee(1.0, 99)


@pytest.mark.parametrize(("n", "m", "alpha"), [(116, 80, 0.05), (99, 30, 0.01), (9, 40, 0.5)])
def test_false_alarms_among_fresh_requests_are_counted_by_ranks(n, m, alpha):
    """A fresh request is a false alarm if fewer than l of n calibration scores reach it. All orders
    of the n + m scores are alike: k fresh ones are above the l-th largest calibration score in
    C(k + l - 1, k) C(m - k + n - l, m - k) of C(n + m, m) cases."""
    promise = Guarantee(alpha, n)
    top = promise.allowed
    cases = [
        math.comb(k + top - 1, k) * math.comb(m - k + n - top, m - k) / math.comb(n + m, m)
        for k in range(m + 1)
    ]
    assert sum(cases) == pytest.approx(1)
    for level in (0.025, 0.5, 0.975):
        k = promise.among(m, level)
        assert sum(cases[: k + 1]) >= level > sum(cases[:k])


@pytest.mark.parametrize(("n", "expected"), [(200, 0.0235), (1000, 0.0157), (5000, 0.0124)])
def test_the_conditional_guarantee_has_the_published_quantiles(n, expected):
    promise = Guarantee(0.01, n)
    assert promise.quantile(0.95) == pytest.approx(expected, abs=5e-5)
    assert promise.expected <= 0.01


def test_obtained_rates_over_calibration_sets_follow_the_beta_distribution():
    n, alpha = 99, 0.1
    generator = torch.Generator().manual_seed(3)
    promise = Guarantee(alpha, n)
    # For uniform scores the rate given the threshold is exactly 1 - threshold.
    drawn = torch.rand(4000, n, generator=generator, dtype=torch.float64)
    rates = [1 - threshold(row, alpha) for row in drawn]
    assert kstest(rates, beta(promise.allowed, n + 1 - promise.allowed).cdf).pvalue > 0.01
    assert sum(rates) / len(rates) == pytest.approx(promise.expected, abs=2e-3)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(NotFiniteError):
        p_values(torch.tensor([1.0, math.nan]), torch.tensor(1.0))
    with pytest.raises(NotFiniteError):
        p_values(torch.tensor([1.0]), torch.tensor(math.nan))
    with pytest.raises(SettingError, match="No calibration"):
        p_values(torch.empty(0), torch.tensor(1.0))
    ids = torch.zeros(1, dtype=torch.long)
    for values, clean in ((math.nan, 1.0), (1.0, math.nan)):
        with pytest.raises(NotFiniteError):
            step_down(torch.tensor([values]), ids, torch.tensor([[clean]]), ids[None])


def slow_step_down(score, clean):
    """Westfall and Young with all vectors in memory."""
    order = sorted(range(len(score)), key=lambda k: -score[k])
    adjusted, so_far = {}, 0.0
    for j, k in enumerate(order):
        rest = order[j:]
        reached = sum(max(row[i] for i in rest) >= score[k] for row in clean)
        so_far = max(so_far, (1 + reached) / (len(clean) + 1))
        adjusted[k] = so_far
    return [adjusted[k] for k in order], order


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 6))
def test_step_down_on_the_top_few_is_step_down_on_all(seed, vec, top):
    generator = torch.Generator().manual_seed(seed)
    top = min(top, vec)
    clean = torch.randn(15, vec, generator=generator)
    score = 1.5 * torch.randn(vec, generator=generator)
    expected, order = slow_step_down(score.tolist(), clean.tolist())
    values, vectors = score.topk(top)
    assert vectors.tolist() == order[:top]
    found = step_down(values, vectors, *clean.topk(top, dim=1))
    assert found.tolist() == pytest.approx(expected[:top])


def test_naming_needs_as_many_clean_scores_as_names():
    with pytest.raises(SettingError, match="cannot be named"):
        step_down(torch.ones(3), torch.arange(3), torch.ones(5, 2), torch.zeros(5, 2).long())


def test_step_down_rarely_names_an_innocent_vector_beside_a_guilty_one():
    generator = torch.Generator().manual_seed(11)
    wrong = 0
    for _ in range(600):
        clean, score = torch.randn(99, 8, generator=generator), torch.randn(8, generator=generator)
        score[0] = 9.0
        found = step_down(*score.topk(8), *clean.topk(8, dim=1))
        named = score.topk(8).indices[found <= 0.05].tolist()
        wrong += any(k != 0 for k in named)
    assert wrong / 600 <= 0.05 + 0.02


def stream(n, shift=0.0, seed=0):
    draw = random.Random(seed)
    return [draw.gauss(shift, 1) for _ in range(n)]


def test_a_stream_that_has_not_moved_hardly_ever_raises_the_drift_alarm():
    raised = 0
    for seed in range(200):
        drift = Drift(stream(50, seed=seed), alpha=0.1, seed=seed)
        raised += any(drift(score) for score in stream(150, seed=1000 + seed))
    assert raised / 200 <= 0.1


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_a_stream_that_has_moved_either_way_raises_the_drift_alarm_and_keeps_it(shift):
    drift = Drift(stream(300), alpha=0.001)
    assert not any(drift(score) for score in stream(100, seed=1))
    after = [drift(score) for score in stream(300, shift=shift, seed=2)]
    assert after[-1]
    assert after == sorted(after)


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0, 1))
def test_no_bet_gains_on_average(ps, jump):
    drift = Drift([0.0], jump=jump)
    for p in ps:
        drift.bet(p)
    before, gains = drift.capital, []
    shares = list(drift._shares)
    for p in [0.0, 0.25, 0.5, 0.75, 1.0]:  # a factor linear in p: its mean is that of its ends
        drift._shares = list(shares)
        drift.bet(p)
        gains.append(drift.capital)
    assert (gains[0] + gains[-1]) / 2 == pytest.approx(before, rel=1e-6)
    assert min(gains) >= 0


def test_drift_p_values_among_all_that_came_before_are_uniform():
    ps = []
    for seed in range(100):
        drift = Drift([float(x > 0) for x in stream(10, seed=seed)], seed=seed)
        ps += [drift.p_value(float(x > 0)) for x in stream(20, seed=500 + seed)]
    assert kstest(ps, "uniform").pvalue > 0.01


def test_a_drift_alarm_without_calibration_is_refused():
    with pytest.raises(SettingError, match="expected scores"):
        Drift([])
    with pytest.raises(NotFiniteError):
        Drift([1.0])(math.nan)
