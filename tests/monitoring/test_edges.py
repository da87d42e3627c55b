"""Monitors at their limits: equal numbers, first and last rows, what nobody measured."""

import dataclasses
import math
import random
from types import SimpleNamespace

import pytest
import torch
from linear import LinearHost
from scipy.stats import beta
from tiny_monitor import POS, VEC, WIDTH, monitor_without_a_model, responses, scores_of, synthetic

from tl_steer.errors import ForeignModelError, PromptError, SettingError
from tl_steer.models.fingerprint import Fingerprint
from tl_steer.monitoring import panel
from tl_steer.monitoring.alert import alert_for
from tl_steer.monitoring.evidence import Effects, effects_of, references
from tl_steer.monitoring.identity import Identity, shared_ends
from tl_steer.monitoring.monitor import split_of
from tl_steer.monitoring.reader import Standard, statistics
from tl_steer.monitoring.soundness import refuse_unsound
from tl_steer.monitoring.statistics.categories import Clusters
from tl_steer.monitoring.statistics.conformal import Guarantee
from tl_steer.monitoring.statistics.drift import Drift
from tl_steer.monitoring.statistics.level import Level
from tl_steer.monitoring.traffic import Traffic

ALPHA = 0.1


def odd(n=6, at=2):
    return synthetic(n, 79, response=responses()[1], at=at)


# --- at the threshold


def test_a_statistic_at_the_threshold_raises_no_alarm_and_a_little_above_it_does():
    """p <= alpha is the same as exceeding the threshold, also where scores are equal to it."""
    monitor = monitor_without_a_model()
    calibrating = synthetic(200, 0)[split_of(200)[2]]
    found = scores_of(monitor, calibrating)
    (limit,) = monitor.thresholds(ALPHA)
    assert bool((monitor.calibration.raised("statistic") == limit).any())
    at_limit = torch.tensor([limit, math.nextafter(limit, math.inf)], dtype=torch.float64)
    p = monitor._p_values("statistic", at_limit, torch.zeros(2, dtype=torch.long))
    assert (p > ALPHA).tolist() == [True, False]
    assert torch.equal(found.statistic > limit, found.p_values <= ALPHA)


def test_a_token_at_the_threshold_did_not_fire():
    monitor, traffic = monitor_without_a_model(), odd()
    found = scores_of(monitor, traffic)
    (limit,) = monitor.thresholds(ALPHA)
    at = dataclasses.replace(
        found, tokens=torch.tensor([[0.0, limit, limit + 1e-3, -math.inf, limit - 1e-3]] * 6)
    )
    alert = alert_for(monitor, at, 0, request="r", alpha=ALPHA, ids=range(10, 15))
    assert [(t.position, t.id) for t in alert.tokens] == [(2, 12)]
    assert [math.isnan(statistic) for statistic in alert.trace] == [False] * 3 + [True, False]
    assert alert.threshold == limit


# --- alerts


def test_an_alert_says_what_the_scores_say():
    monitor = monitor_without_a_model()
    bank = monitor.bank.label(1, "dangerous: red").label(0, "benign")
    monitor = dataclasses.replace(monitor, bank=bank)
    found = scores_of(monitor, odd())
    words = SimpleNamespace(decode=lambda ids: f"<{ids[0]}>")
    alert = alert_for(
        monitor, found, 2, request="r7", alpha=ALPHA, ids=range(20, 25), tokenizer=words
    )
    assert (alert.request, alert.alpha, alert.rank) == ("r7", ALPHA, 1)
    assert (alert.vector, alert.label, alert.verdict) == (1, "dangerous: red", "dangerous")
    assert alert.p_value == float(found.p_values[2])
    assert alert.vector_p == float(found.vector_p[2, 0])
    assert alert.statistic == pytest.approx(float(found.statistic[2]))
    assert alert.explained == pytest.approx(float(found.explained[2]), nan_ok=True)
    assert [(a.rank, a.vector) for a in alert.alternatives] == [
        (i + 1, int(found.vectors[2, i])) for i in range(1, VEC)
    ]
    assert alert.named == int((found.vector_p[2] <= ALPHA).sum())
    assert all(token.text == f"<{20 + token.position}>" for token in alert.tokens)
    assert all(token.statistic > alert.threshold for token in alert.tokens)
    assert 2 in [token.position for token in alert.tokens]


def test_tokens_whose_ids_are_not_known_are_not_shown():
    monitor = monitor_without_a_model()
    alert = alert_for(monitor, scores_of(monitor, odd()), 0, request="r", alpha=ALPHA, ids=[5, 6])
    assert all(token.position < 2 for token in alert.tokens)


def test_what_is_known_at_alpha_is_a_known_perturbation_and_else_an_unknown_anomaly():
    monitor = monitor_without_a_model()
    found = scores_of(monitor, odd(3))
    known = torch.tensor([ALPHA, ALPHA + 1e-9, ALPHA / 2], dtype=torch.float64)
    found = dataclasses.replace(found, known_p=known)
    kinds = [
        alert_for(monitor, found, i, request="r", alpha=ALPHA, ids=[0] * POS).kind for i in range(3)
    ]
    assert kinds == ["known perturbation", "unknown anomaly", "known perturbation"]


def test_an_alert_without_vectors_names_none_and_its_row_holds_nothing_that_is_no_number():
    monitor = monitor_without_a_model(score=None, namer=None)
    found = scores_of(monitor, odd(1))
    alert = alert_for(monitor, found, 0, request="r", alpha=ALPHA, ids=[0] * POS)
    assert (alert.vector, alert.label, alert.rank, alert.named) == (None, "", 0, 0)
    assert alert.kind == "unknown anomaly"
    assert alert.alternatives == ()
    assert math.isnan(alert.vector_p)
    row = alert.row("m", "b", revised=True)
    assert row.vector_p is None
    assert (row.monitor, row.bank, row.revised) == ("m", "b", True)
    assert dataclasses.replace(alert, explained=math.nan).row().explained is None
    assert dataclasses.replace(alert, explained=0.5).row().explained == 0.5
    with pytest.raises(SettingError, match=r"names no vector.*vector="):
        alert.replay(LinearHost([torch.eye(WIDTH)]))


# --- promises


def test_a_guarantee_is_that_of_the_smallest_category_or_of_the_one_asked_for():
    monitor = monitor_without_a_model()
    category = torch.zeros(90, dtype=torch.long)
    category[20:50] = 1
    category[50:] = 2
    kept = dataclasses.replace(monitor.calibration, category=category)
    several = dataclasses.replace(monitor, calibration=kept)
    assert several.calibration.sizes == [20, 30, 40]
    assert several.guarantee(ALPHA).n == 20
    assert [several.guarantee(ALPHA, category=i).n for i in range(3)] == [20, 30, 40]
    for bad in (-1, 3):
        with pytest.raises(SettingError, match=f"category={bad}: there are 3"):
            several.guarantee(ALPHA, category=bad)
    with pytest.raises(SettingError, match=r"category 0 of requests; they have \[20, 30, 40\]"):
        several.guarantee(0.04)
    assert several.guarantee(0.04, category=1).allowed == 1
    limits = several.thresholds(ALPHA)
    for i, limit in enumerate(limits):
        own = kept.raised("statistic")[category == i].sort(descending=True).values
        assert limit == float(own[math.floor(ALPHA * (len(own) + 1) + 1e-9) - 1])


# --- splits and batches


@pytest.mark.parametrize(
    ("n", "sizes"), [(100, (40, 15, 45)), (200, (80, 30, 90)), (12, (5, 2, 5))]
)
def test_two_fifths_fit_and_under_half_calibrates(n, sizes):
    assert tuple(map(len, split_of(n))) == sizes


def test_splits_are_at_random_and_fixed_by_the_seed():
    assert split_of(50, seed=1) == split_of(50, seed=1)
    assert split_of(50, seed=1) != split_of(50, seed=2)
    assert split_of(50)[0] != list(range(20))
    with pytest.raises(PromptError, match="9 clean prompts are too few"):
        split_of(9)


@pytest.mark.parametrize("most", [1, 60, 10**9])
def test_batches_hold_every_request_once_and_no_more_numbers_than_fit(monkeypatch, most):
    monkeypatch.setattr(panel, "_NUMBERS", most)
    reader = monitor_without_a_model().reader
    rows = list(panel.batches(reader, torch.ones(11, POS, dtype=torch.bool)))
    assert [i for part in rows for i in range(11)[part]] == list(range(11))
    scores = 2 * VEC  # two scores of every vector, as fitted unless told otherwise
    longest = max(len(range(11)[part]) for part in rows)
    assert longest == min(11, max(1, most // (scores * POS)))


# --- what vectors do


def ragged(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, WIDTH, generator=generator) for n in lengths]


def clean_of(rows):
    """Traffic with these activations at its tokens."""
    longest = max(map(len, rows))
    padded = torch.stack([torch.nn.functional.pad(r, (0, 0, 0, longest - len(r))) for r in rows])
    lengths = torch.tensor([len(r) for r in rows])
    return Traffic(
        activations={"here": padded},
        mask=torch.arange(longest) < lengths[:, None],
        ids=torch.zeros(len(rows), longest, dtype=torch.long),
        prompts=(torch.arange(2),) * len(rows),
        texts=("",) * len(rows),
        answers=("",) * len(rows),
    )


def test_effects_are_differences_of_means_prompt_by_prompt():
    clean = ragged([4, 1, 6], 0)
    steered = [ragged([3, 5, 2], 1), ragged([6, 6, 1], 2)]
    found = effects_of(steered, clean_of(clean), "here")
    for k, rows in enumerate(steered):
        ends = torch.stack([r[0] for r in rows])
        first = (ends - torch.stack([r[0] for r in clean])).mean(dim=0)
        torch.testing.assert_close(found.responses[0][k], first)
        torch.testing.assert_close(found.steered[0][k], ends)
        said = torch.stack([r[1:].mean(dim=0) for r in rows if len(r) > 1]).mean(dim=0)
        plain = torch.stack([r[1:].mean(dim=0) for r in clean if len(r) > 1]).mean(dim=0)
        torch.testing.assert_close(found.responses[1][k], said - plain)
        # Four tokens of each, from the first generated one to the last.
        few = found.steered[1][k].unflatten(0, (3, 4))
        for kept, r in zip(few, rows, strict=True):
            spoken_rows = r[1:] if len(r) > 1 else r
            assert torch.equal(kept[0], spoken_rows[0])
            assert torch.equal(kept[-1], spoken_rows[-1])
            assert all(bool((each == spoken_rows).all(dim=1).any()) for each in kept)


def test_where_nothing_is_said_the_ends_stand_for_answers():
    clean, steered = ragged([1, 1], 0), [ragged([1, 1], 1)]
    found = effects_of(steered, clean_of(clean), "here")
    assert torch.equal(found.responses[1], found.responses[0])


def test_effects_of_some_vectors_are_theirs():
    found = effects_of([ragged([3, 2], k) for k in range(4)], clean_of(ragged([2, 3], 9)), "here")
    some = found[[3, 1]]
    assert isinstance(some, Effects)
    for part in (0, 1):
        assert torch.equal(some.responses[part], found.responses[part][[3, 1]])
        assert torch.equal(some.steered[part], found.steered[part][[3, 1]])


def test_each_phase_is_compared_with_clean_tokens_of_its_own():
    clean = clean_of(ragged([4, 1, 6], 0))
    found = effects_of([ragged([3, 5, 2], 1)], clean, "here")
    ((ends, said),) = references(clean, {"here": found}, ["here"])
    at = clean.activations["here"]
    assert torch.equal(ends.clean, at[:, 0])
    assert torch.equal(said.clean, torch.cat([at[0, 1:4], at[2, 1:6]]))
    assert torch.equal(ends.background, at[clean.mask])
    assert torch.equal(said.background, at[clean.mask])
    assert (ends.per_prompt, said.per_prompt) == (1, 4)
    assert torch.equal(said.responses, found.responses[1])
    assert torch.equal(said.steered, found.steered[1])
    alone = clean_of(ragged([1, 1], 0))
    of_ends = effects_of([ragged([1, 1], 1)], alone, "here")
    ((first, second),) = references(alone, {"here": of_ends}, ["here"])
    assert torch.equal(second.clean, first.clean)
    assert second.per_prompt == 1


# --- requests


def test_some_requests_are_taken_with_all_that_is_known_of_them():
    whole = dataclasses.replace(
        synthetic(4, 0),
        texts=tuple("abcd"),
        answers=tuple("wxyz"),
        prompts=tuple(torch.tensor([i]) for i in range(4)),
        ids=torch.arange(4)[:, None].expand(4, POS),
    )
    some = whole[[2, 0]]
    assert len(some) == 2
    assert (some.texts, some.answers) == (("c", "a"), ("y", "w"))
    assert [int(p) for p in some.prompts] == [2, 0]
    assert some.ids[:, 0].tolist() == [2, 0]
    assert torch.equal(some.mask, whole.mask[[2, 0]])
    assert torch.equal(some.activations["here"], whole.activations["here"][[2, 0]])


# --- which model, which template


MARK = Fingerprint((0.0,) * 48, 3, 2, 50, "float32")


def known(**changes):
    checked = torch.arange(24.0).reshape(1, 8, 3) + 1
    return Identity("tiny", MARK, checked, (1, 2), (9,), None), checked


@pytest.mark.parametrize(
    ("dtype", "off", "refused"),
    [
        ("float32", 5e-4, False),
        ("float32", 2e-3, True),
        ("float64", 2e-3, True),
        ("bfloat16", 0.02, False),
        ("bfloat16", 0.04, True),
        ("float32", math.nan, True),
    ],
)
def test_activations_of_the_same_tokens_tell_models_apart(dtype, off, refused):
    identity, checked = known()
    identity = dataclasses.replace(identity, fingerprint=dataclasses.replace(MARK, dtype=dtype))
    asked = []

    def run(ids):
        asked.append(ids)
        return [checked * (1 + off)]

    if refused:
        with pytest.raises(ForeignModelError, match=r"fitted on tiny.*at its site 0"):
            identity.refuse_other_model(getattr(torch, dtype), run)
    else:
        identity.refuse_other_model(getattr(torch, dtype), run)
    assert [tuple(ids.shape) for ids in asked] == [(1, 8)]
    assert int(asked[0].max()) < 50


def test_another_dtype_or_width_is_another_model():
    identity, checked = known()
    with pytest.raises(ForeignModelError, match=r"fitted in float32.*computes in bfloat16"):
        identity.refuse_other_model(torch.bfloat16, lambda ids: [checked])
    with pytest.raises(ForeignModelError, match="relative distance nan"):
        identity.refuse_other_model(torch.float32, lambda ids: [checked[..., :2]])


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        ([1, 2, 9], True),
        ([1, 2, 5, 9], True),
        ([1, 2], False),
        ([1, 9], False),
        ([1, 3, 5, 9], False),
        ([1, 2, 5, 8], False),
        ([2, 1, 5, 9], False),
    ],
)
def test_prompts_begin_and_end_as_those_that_the_monitor_knows(row, fits):
    identity, _ = known()
    prompts = [torch.tensor([1, 2, 9]), torch.tensor(row)]
    if fits:
        identity.refuse_other_template(prompts)
    else:
        with pytest.raises(PromptError, match=r"Prompt 1 does not have the template.*\[1, 2\]"):
            identity.refuse_other_template(prompts)


def test_free_text_has_no_template():
    free = dataclasses.replace(known()[0], prefix=(), suffix=())
    free.refuse_other_template([torch.tensor([5]), torch.tensor([], dtype=torch.long)])


@pytest.mark.parametrize(
    ("rows", "ends"),
    [
        ([[1, 2, 3], [1, 2, 4]], ((1, 2), ())),
        ([[1, 5, 3], [1, 6, 7, 3]], ((1,), (3,))),
        ([[1, 2], [1, 2]], ((1, 2), ())),
        ([[1, 1], [1, 1, 1]], ((1, 1), ())),
        ([[2, 3], [1, 3]], ((), (3,))),
        ([[1], [2]], ((), ())),
    ],
)
def test_common_ends_never_overlap(rows, ends):
    assert shared_ends([torch.tensor(row) for row in rows]) == ends


# --- categories


@pytest.mark.parametrize("settings", [{"smallest": 0}, {"most": 0}])
def test_a_category_has_a_request_and_there_is_one(settings):
    with pytest.raises(SettingError, match="at least one request"):
        Clusters(**settings)
    assert Clusters(smallest=1, most=1).most == 1


# --- drift


def capital_slowly(ps, jump):
    """The Simple Jumper's capital after every bet, from the published recursion."""
    shares, path = {-1: 1 / 3, 0: 1 / 3, 1: 1 / 3}, []
    for p in ps:
        whole = sum(shares.values())
        shares = {
            e: ((1 - jump) * own + jump * whole / 3) * (1 + e * (p - 0.5))
            for e, own in shares.items()
        }
        path.append(sum(shares.values()))
    return path


@pytest.mark.parametrize("jump", [0.0, 0.01, 0.3, 1.0])
def test_capital_is_the_published_recursion_and_the_peak_its_maximum(jump):
    ps = [0.9, 1.0, 0.8, 0.1, 0.0, 0.3, 0.95, 0.99, 1.0, 1.0, 0.2]
    drift, highest = Drift([0.0], jump=jump), 1.0
    for p, expected in zip(ps, capital_slowly(ps, jump), strict=True):
        drift.bet(p)
        highest = max(highest, expected)
        assert drift.capital == pytest.approx(expected)
        assert drift.peak == pytest.approx(highest)


@pytest.mark.parametrize("bets", [3, 8, 20])
def test_the_drift_alarm_goes_off_where_the_capital_reaches_one_over_alpha(bets):
    """And not at half of it, nor at twice."""
    peak = capital_slowly([1.0] * bets, 0.01)[-1]
    for alpha, alarmed in ((0.999 / peak, False), (1.001 / peak, True)):
        drift = Drift([0.0], alpha=alpha)
        for _ in range(bets):
            assert not drift.alarmed
            drift.bet(1.0)
        assert drift.alarmed == alarmed
        drift.bet(0.0)  # once raised it stays, though the capital falls
        assert drift.alarmed == alarmed
    exact = Drift([0.0], alpha=0.5)
    exact.peak = 2.0
    assert exact.alarmed


def test_a_p_value_counts_what_lies_above_and_a_random_share_of_what_ties():
    for seed in range(5):
        draw = random.Random(seed)
        drift = Drift([3.0, 1.0, 2.0, 2.0], seed=seed)
        # Above 2.0 lies one; itself and two others tie. Then it is one of those before.
        assert drift.p_value(2.0) == pytest.approx((1 + 3 * draw.random()) / 5)
        assert drift.p_value(2.0) == pytest.approx((1 + 4 * draw.random()) / 6)
        assert drift.p_value(9.0) == pytest.approx(draw.random() / 7)
        assert drift.p_value(0.0) == pytest.approx((7 + draw.random()) / 8)


def test_scores_move_the_capital_by_their_p_values():
    drift, other = Drift([1.0, 2.0, 3.0], seed=4), Drift([1.0, 2.0, 3.0], seed=4)
    for score in (5.0, 0.0, 7.0):
        other.bet(other.p_value(score))
        assert drift(score) == other.alarmed
        assert drift.capital == other.capital


@pytest.mark.parametrize(
    "settings", [{"alpha": 0.0}, {"alpha": 1.0}, {"alpha": -0.1}, {"jump": -0.01}, {"jump": 1.01}]
)
def test_drift_settings_beyond_their_range_are_refused(settings):
    with pytest.raises(SettingError, match="expected scores, alpha between"):
        Drift([1.0], **settings)
    for fine in ({"jump": 0.0}, {"jump": 1.0}, {"alpha": 0.999}):
        assert Drift([1.0], **fine).capital == 1.0


# --- levels


@pytest.mark.parametrize("odds", [0.1, 2.0])
def test_nats_are_those_of_laplaces_tail_on_both_sides(odds):
    level = Level(1.0, 0.5, odds)
    for value in (-3.0, 0.0, 0.9, 1.0, 1.1, 4.0):
        z = (value - 1.0) / 0.5
        tail = 0.5 * math.exp(-z) if z >= 0 else 1 - 0.5 * math.exp(z)
        expected = math.log(1 + odds / tail)
        assert level.nats_of(value) == pytest.approx(expected)
        assert float(level.nats(torch.tensor(value))) == pytest.approx(expected, rel=1e-5)
    assert level.nats_of(-math.inf) == 0.0


def test_a_level_is_the_median_of_peaks_and_their_mean_excess_over_it():
    values = torch.tensor([[1.0, 9.0], [2.0, 0.0], [0.0, 3.0], [5.0, 4.0], [100.0, 100.0]])
    mask = torch.tensor([[True, False], [True, True], [True, True], [True, True], [False, False]])
    level = Level.of(values, mask, 0.1)  # peaks 1, 2, 3 and 5
    assert (level.location, level.odds) == (2.5, 0.1)
    assert level.scale == pytest.approx((0.5 + 2.5) / 2)


def test_a_level_of_nothing_or_of_equal_peaks_can_be_divided_by():
    nothing = torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.bool)
    assert Level.of(*nothing, 0.2) == Level(0.0, 1.0, 0.2)
    equal = Level.of(torch.full((4, 1), 9.0), torch.ones(4, 1, dtype=torch.bool), 0.2)
    assert equal.location == 9.0
    assert equal.scale == pytest.approx(1e-2)


# --- vectors on one scale


def test_vectors_are_brought_to_one_scale_with_twenty_tokens_of_the_median_one():
    clean = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    clean = clean * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([0.0, 2.0, -7.0])
    found = Standard.bare(lambda x: x, 3).on(clean)
    variance = clean.double().var(dim=0, correction=0)
    drawn = (30 * variance + 20 * variance.median()) / 50
    torch.testing.assert_close(found.shift, clean.double().mean(dim=0).float())
    torch.testing.assert_close(found.inverse, drawn.rsqrt().float())
    fresh = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found(fresh), (fresh - found.shift) / drawn.sqrt().float())


def test_what_cannot_be_scaled_stays_as_it_is():
    bare = Standard.bare(lambda x: x.log(), 2)
    assert bare.on(torch.zeros(0, 2)) is bare
    assert bare.on(torch.tensor([[1.0, 0.0]])) is bare
    torch.testing.assert_close(bare(torch.ones(1, 2)), torch.zeros(1, 2))


def test_the_parts_of_a_statistic_are_largest_on_their_own():
    nats = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]], [[5.0, 1.0]]])  # part request token
    whole, known, unknown = statistics(nats)
    assert (whole.tolist(), known.tolist(), unknown.tolist()) == ([6.0], [3.0], [5.0])


# --- what a monitor says of itself


def test_a_guarantee_prints_the_rate_that_95_of_100_calibration_sets_stay_below():
    """By the published distribution, Beta(l, n + 1 - l) with l = floor(alpha (n + 1))."""
    said = str(Guarantee(0.05, 199))
    assert f"below {beta.ppf(0.95, 10, 190):.2%} for 95% of such sets" in said
    assert "5.00% on average" in said


def test_a_monitor_says_all_that_it_was_fitted_with():
    plain = monitor_without_a_model(unknown=None, namer=None, categories=None)
    assert {plain.settings[name] for name in ("unknown", "namer", "categories")} == {"None"}
    told = monitor_without_a_model().settings
    assert all(told[name] != "None" for name in ("score", "unknown", "namer", "categories"))


@pytest.mark.parametrize(
    ("ends", "horizon", "sound"), [(0.0, 4, True), (1.0, 0, True), (0.0, 0, False)]
)
def test_a_monitor_for_which_nothing_counts_is_unsound(ends, horizon, sound):
    monitor = monitor_without_a_model()
    reader = dataclasses.replace(monitor.reader, ends=ends)
    panel = dataclasses.replace(monitor, reader=reader, horizon=horizon)
    if sound:
        refuse_unsound(panel)
    else:
        with pytest.raises(SettingError, match="nothing counts"):
            refuse_unsound(panel)
