"""Statistics over prompts, against slow restatements and worlds whose truth is known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tl_steer.sweeps.beyond_random import superiority, thresholds, without_itself
from tl_steer.sweeps.interval import Interval, exact, resamples, weighted_mean
from tl_steer.sweeps.systematic import (
    Directions,
    adjusted,
    consistency,
    evidence,
    figure,
    p_values,
    verdict,
)

NUMBERS = st.integers(0, 2**32 - 1)


def units(rng, vec, prompts, d=6):
    u = rng.normal(size=(vec, prompts, d)) + rng.normal(size=(vec, 1, d))
    return u / np.linalg.norm(u, axis=-1, keepdims=True)


def grouped(u, groups):
    """What a sweep keeps of directions `[vec prompt d]`."""
    group = np.arange(u.shape[1]) % groups
    member = (group[:, None] == np.arange(groups)).astype(float)
    counts = np.linalg.norm(u, axis=-1).round() @ member
    return Directions(np.einsum("vpd,pg->gvd", u, member), counts.T)


@given(NUMBERS, st.integers(2, 12), st.integers(1, 12))
def test_consistency_is_the_mean_cosine_over_pairs_however_prompts_are_grouped(seed, n, groups):
    u = units(np.random.default_rng(seed), 3, n)
    u[0, 0] = 0  # no response, no direction: left out
    found = consistency(grouped(u, min(groups, n)))
    for v in range(3):
        rows = [row for row in u[v] if row.any()]
        pairs = [float(a @ b) for a, b in itertools.combinations(rows, 2)]
        expected = np.mean(pairs) if pairs else math.nan
        assert found[v] == pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(NUMBERS)
def test_a_resample_is_the_mean_over_pairs_of_different_prompts_as_often_as_they_are_drawn(seed):
    rng = np.random.default_rng(seed)
    u, exceeds = units(rng, 2, 7), rng.integers(0, 2, size=(2, 7)).astype(float)
    weights = resamples(4, seed=seed, times=5)
    found = figure(exceeds, grouped(u, 4), weights)
    for b, v in itertools.product(range(5), range(2)):
        drawn = [(i, copy) for i in range(7) for copy in range(int(weights[b, i % 4]))]
        pairs = [
            float(u[v, i] @ u[v, j]) for (i, _), (j, _) in itertools.product(drawn, drawn) if i != j
        ]
        share = np.mean([exceeds[v, i] for i, _ in drawn]) if drawn else math.nan
        same = np.mean(pairs) if pairs else math.nan
        assert found[b, v] == pytest.approx(share * max(same, 0.0), abs=1e-9, nan_ok=True)


@given(NUMBERS, st.integers(1, 30), st.booleans())
def test_thresholds_are_a_quantile_and_a_random_vector_meets_that_of_the_others(seed, n, failed):
    control = np.random.default_rng(seed).integers(0, 9, size=(n, 5)).astype(float)
    if failed:
        control[seed % n, :2] = np.nan

    def slow(rows, i):
        there = rows[np.isfinite(rows[:, i]), i]
        return max(0.5, np.quantile(there, 0.95, method="higher")) if len(there) else 0.5

    found, own = thresholds(control, 0.5), without_itself(control, 0.5)
    for i in range(5):
        assert found[i] == slow(control, i)
        for r in range(n):
            assert own[r, i] == slow(np.delete(control, r, axis=0), i)


@given(NUMBERS, st.integers(1, 6))
def test_superiority_is_the_share_of_random_vectors_that_do_less(seed, n):
    rng = np.random.default_rng(seed)
    effects, control = (rng.integers(0, 4, size=(k, 5)).astype(float) for k in (3, n))
    found = superiority(effects, control)
    for v, i in itertools.product(range(3), range(5)):
        told = [1.0 if effects[v, i] > c else 0.5 * (effects[v, i] == c) for c in control[:, i]]
        assert found[v, i] == pytest.approx(np.mean(told))


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
def test_q_is_benjamini_and_hochbergs(p):
    found, m = adjusted(np.array([*p, math.nan])), len(p)
    assert math.isnan(found[-1])
    order = np.argsort(p)
    for place, i in enumerate(order):
        slow = min(min(1.0, p[order[k]] * m / (k + 1)) for k in range(place, m))
        assert found[i] == pytest.approx(slow)


def test_exact_intervals_are_those_of_the_textbook():
    assert exact(0, 20) == pytest.approx((0.0, 0.16843), abs=1e-5)
    assert exact(20, 20) == pytest.approx((1 - 0.16843, 1.0), abs=1e-5)
    assert exact(5, 10) == pytest.approx((0.18709, 0.81291), abs=1e-5)


def test_means_of_resamples_leave_failed_cells_out():
    values = np.array([[1.0, np.nan, 3.0]])
    assert weighted_mean(values, np.array([[1.0, 5.0, 1.0], [0.0, 1.0, 2.0]])).ravel().tolist() == [
        2.0,
        3.0,
    ]


@given(NUMBERS)
@settings(max_examples=30)
def test_the_bootstrap_interval_of_a_mean_is_that_of_its_standard_error(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(1, 200))
    spread = weighted_mean(values, resamples(200, seed=seed)).std()
    assert spread == pytest.approx(values.std() / math.sqrt(200), rel=0.15)


def world(seed, *, vec=6, random=99, prompts=40, d=12):
    """Random vectors with effects and directions, and as many vectors of the same kind."""
    rng = np.random.default_rng(seed)
    size = rng.lognormal(size=(vec + random, 1)) * rng.lognormal(size=(1, prompts))
    effects = size * rng.lognormal(sigma=0.3, size=(vec + random, prompts))
    return rng, effects, units(rng, vec + random, prompts, d)


def test_of_vectors_like_random_ones_no_more_get_a_small_p_than_its_value_says():
    p = []
    for seed in range(60):
        _, effects, u = world(seed)
        at = grouped(u, 32)
        merit = evidence(effects[:6], effects[6:], at, floor=0.0)
        p += [one.p for one in merit]
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(p) <= level)
        # Vectors of one world share their control, so the count varies more than a binomial's.
        assert share <= level + 3 * math.sqrt(level * (1 - level) / 120)
    # Vectors that never exceed are tied, which makes large values larger and leaves small ones.
    assert np.mean(np.array(p) <= 0.05) > 0.01


def test_a_real_behaviour_a_one_off_and_a_scattered_one_are_told_apart():
    rng, effects, u = world(1, random=299)
    top = effects[6:].max(axis=0)
    effects[0] = 3 * top  # everywhere, and everywhere the same
    u[0] = u[0].mean(axis=0) + 0.3 * u[0]
    effects[1, :] = 1e-3  # once, and never again
    effects[1, 7] = 100 * top[7]
    effects[2] = 3 * top  # everywhere, another thing each time
    u[2] = rng.normal(size=u[2].shape)
    u /= np.linalg.norm(u, axis=-1, keepdims=True)
    found = evidence(effects[:6], effects[6:], grouped(u, 32), floor=0.0)
    assert [one.verdict for one in found[:2]] == ["systematic", "like random"]
    assert found[2].verdict in ("scattered", "like random")
    assert found[0].systematicness.value == max(one.systematicness.value for one in found)
    assert found[1].prevalence.value == pytest.approx(1 / 40)
    assert found[0].superiority.value == 1.0
    assert found[0].prevalence.low == pytest.approx(0.9119, abs=1e-3)


@pytest.mark.parametrize(
    ("n", "share", "same", "p", "q", "word"),
    [
        (40, (0.9, 0.8, 0.95), (0.6, 0.5, 0.7), 0.001, 0.01, "systematic"),
        (40, (0.2, 0.1, 0.3), (0.6, 0.5, 0.7), 0.001, 0.01, "one-off"),
        (40, (0.9, 0.8, 0.95), (0.1, 0.0, 0.2), 0.001, 0.01, "scattered"),
        (40, (0.6, 0.4, 0.7), (0.6, 0.5, 0.7), 0.001, 0.01, "undecided"),
        (40, (0.9, 0.8, 0.95), (0.6, 0.5, 0.7), 0.1, 0.2, "like random"),
        (40, (0.9, 0.8, 0.95), (0.6, 0.5, 0.7), 0.01, 0.2, "undecided"),
        (40, (0.9, 0.8, 0.95), (0.6, 0.5, 0.7), math.nan, math.nan, "undecided"),
        (9, (0.9, 0.8, 0.95), (0.6, 0.5, 0.7), 0.001, 0.01, "undecided"),
    ],
)
def test_a_verdict_is_what_the_page_says(n, share, same, p, q, word):
    assert verdict(n, Interval(*share), Interval(*same), p, q, 99)[0] == word


def test_what_a_vector_was_trained_to_move_is_never_called_systematic():
    sure = (40, Interval(0.9, 0.8, 0.95), Interval(0.6, 0.5, 0.7), 0.001, 0.01, 99)
    assert verdict(*sure, of_text=True)[0] == "systematic"
    word, why = verdict(*sure, of_text=False)
    assert word == "steady"
    assert "texts were not asked" in why


def test_intervals_hold_their_estimates_and_say_nothing_of_one_prompt():
    _, effects, u = world(2)
    for one in evidence(effects[:6], effects[6:], grouped(u, 32), floor=0.0):
        for span in (one.effect, one.superiority, one.prevalence, one.consistency):
            assert span.low <= span.value <= span.high
    (single, *_) = evidence(effects[:6, :1], effects[6:, :1], grouped(u[:, :1], 1), floor=0.0)
    assert math.isnan(single.consistency.value)
    assert single.verdict == "undecided"


def test_without_random_vectors_there_is_no_p_and_no_verdict():
    _, effects, u = world(3)
    for one in evidence(effects[:6], effects[:0], grouped(u[:6], 32), floor=0.0):
        assert math.isnan(one.p)
        assert one.verdict == "undecided"
        assert "no random vectors" in one.reason


def test_too_few_random_vectors_are_named_as_the_reason():
    _, effects, u = world(4, random=9)
    effects[0] = 1e3
    u[0] = u[0].mean(axis=0) / np.linalg.norm(u[0].mean(axis=0))
    found = evidence(effects[:6], effects[6:], grouped(u, 32), floor=0.0)[0]
    assert (found.p, found.verdict) == (pytest.approx(0.1), "undecided")
    assert "too few" in found.reason


def test_an_effect_below_the_noise_floor_is_none():
    _, effects, u = world(5)
    found = evidence(effects[:6], effects[6:], grouped(u, 32), floor=effects.max())
    assert all(one.prevalence.value == 0 for one in found)
    assert all(one.verdict == "like random" for one in found)


def test_failed_cells_are_left_out_of_every_statistic():
    _, effects, u = world(6)
    effects[0, :5], effects[1] = np.nan, np.nan
    found = evidence(effects[:6], effects[6:], grouped(u, 32), floor=0.0)
    assert (found[0].prompts, found[1].prompts) == (35, 0)
    assert found[0].effect.value == pytest.approx(effects[0, 5:].mean())
    assert math.isnan(found[1].prevalence.value)
    assert math.isnan(found[1].q)
    assert found[1].verdict == "undecided"


def test_a_random_vector_that_failed_everywhere_counts_against_the_bank():
    _, effects, u = world(7, random=19)
    effects[6] = np.nan
    effects[0] = 1e3
    at = grouped(u, 32)
    merit = np.full(6, 2.0)
    p = p_values(merit, effects[6:], at.rows(range(6, 25)), 0.0)
    assert p.tolist() == [2 / 20] * 6
