"""Categories of requests: what they are, and that each keeps the promise about false alarms."""

import dataclasses
import math

import pytest
import torch
from conftest import TARGET, bank_of
from hypothesis import given, settings, strategies as st
from sklearn.metrics import homogeneity_score
from tiny_monitor import (
    POS,
    WIDTH,
    monitor_without_a_model,
    prompts,
    responses,
    scores_of,
    synthetic,
)

import tl_steer as ts
from tl_steer.errors import BankFileError, SettingError
from tl_steer.monitoring import file as panelfile
from tl_steer.monitoring.audit import read_log
from tl_steer.monitoring.detectors import detector as d
from tl_steer.monitoring.monitor import split_of
from tl_steer.monitoring.running import Running
from tl_steer.monitoring.statistics.categories import Categories, Clusters, joined
from tl_steer.monitoring.statistics.conformal import mondrian_p_values, needed
from tl_steer.monitoring.traffic import observe

# Of two kinds with 90 calibration requests each, neither can make two categories.
SMALL = Clusters(smallest=60)


def spread(at, sizes, seed=0):
    """Points around places of their own, and whose they are."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return at[own] + torch.randn(len(own), at.shape[1], generator=generator), own


def places(n, seed=3):
    return 9 * torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


def quiet_and_loud(n, seed, *, odd=None, loudness=6.0):
    """Two kinds of requests, told apart by one direction of their prompts' ends; the second vary
    `loudness` times as much. `odd` is added to a token of the quiet ones."""
    traffic = synthetic(n, seed)
    loud = torch.arange(n) % 2 == 1
    activations = traffic.activations["here"].clone()
    activations[loud] *= loudness
    activations[:, 0, 0] += torch.where(loud, 90.0, -90.0)
    if odd is not None:
        activations[~loud, 2] += odd
    return dataclasses.replace(traffic, activations={"here": activations}), loud


def test_no_category_has_requests_of_two_kinds_that_are_large_enough_for_their_own():
    """Compared with where the points were drawn. The largest kind may make two categories."""
    points, own = spread(places(3), [200, 120, 90])
    found = Clusters(smallest=60)(points, len(points))
    assert len(found) >= 3
    assert homogeneity_score(own, found.of(points)) == 1


def test_the_nearest_centre_decides():
    """By Euclidean distance between directions, restated."""
    points, _ = spread(places(5), [60] * 5)
    found = Clusters(smallest=60)(points, 300)
    unit = torch.nn.functional.normalize(points - found.mean, dim=1)
    nearest = torch.cdist(unit, found.centres).argmin(dim=1)
    assert torch.equal(found.of(points), found.members[nearest])


@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=8),
    least=st.floats(0, 400),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_clusters_are_joined_until_every_category_is_large_enough(sizes, least, seed):
    members = joined(places(len(sizes), seed), torch.tensor(sizes), least)
    counts = [sum(n for n, own in zip(sizes, members, strict=True) if own == i) for i in range(8)]
    held = len(set(members.tolist()))
    assert set(members.tolist()) == set(range(held))
    assert held == 1 or min(counts[:held]) >= least
    if least == 0 or min(sizes) >= least:
        assert held == len(sizes)


def test_a_small_cluster_joins_the_nearest():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [11.0, 0.0], [0.0, 9.0]])
    members = joined(centres, torch.tensor([50, 50, 5, 50]), 20)
    assert members[1] == members[2]
    assert len(set(members.tolist())) == 3


@pytest.mark.parametrize("how", [Clusters(), None], ids=["few requests", "switched off"])
def test_requests_that_are_too_few_or_not_to_be_told_apart_are_of_one_category(how):
    monitor = monitor_without_a_model(200, categories=how)
    assert len(monitor.reader.categories) == 1
    assert monitor.calibration.sizes == [90]


def test_prompts_that_all_end_alike_are_of_one_category():
    assert len(SMALL(torch.ones(100, WIDTH), 100)) == 1


def test_what_counts_is_how_many_calibration_requests_are_expected():
    """There are twice as many as requests to fit on."""
    points, _ = spread(places(2), [50, 50])
    assert len(Clusters(smallest=90, most=2)(points, 200)) == 2
    assert len(Clusters(smallest=110, most=2)(points, 200)) == 1


def test_impossible_settings_are_refused():
    for wrong in ({"smallest": 0}, {"most": 0}):
        with pytest.raises(SettingError, match="Clusters"):
            Clusters(**wrong)


def test_the_default_leaves_room_for_alarms_at_one_per_cent():
    """Half of all categories would be refused if as many were expected as are needed."""
    short = 0
    for seed in range(40):
        points, _ = spread(places(2), [290, 290], seed)
        order = torch.randperm(580, generator=torch.Generator().manual_seed(seed))
        fit, rest = order[:232], order[319:]  # shares of a monitor's split
        found = Clusters()(points[fit], len(rest))
        counts = torch.bincount(found.of(points[rest]), minlength=len(found))
        short += int(counts.min()) < needed(0.01)
    assert short == 0


# --- p-values ---------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_p_value_is_the_rank_among_requests_of_the_same_category(seed):
    generator = torch.Generator().manual_seed(seed)

    def drawn(n):
        return (
            torch.randint(6, (n,), generator=generator).float(),
            torch.randint(3, (n,), generator=generator),
        )

    kept, of_kept = drawn(60)
    scores, of_scores = drawn(20)
    found = mondrian_p_values(kept, scores, kept=of_kept, given=of_scores)
    for p, score, category in zip(found, scores, of_scores, strict=True):
        own = [s for s, c in zip(kept, of_kept, strict=True) if c == category]
        assert float(p) == (1 + sum(bool(s >= score) for s in own)) / (len(own) + 1)


def test_a_category_that_was_never_calibrated_is_refused():
    with pytest.raises(SettingError, match="calibration"):
        mondrian_p_values(
            torch.zeros(3), torch.zeros(2), kept=torch.zeros(3).long(), given=torch.ones(2).long()
        )


# --- monitors ---------------------------------------------------------------------------------


def fitted(n=400, seed=0, **how):
    return monitor_without_a_model(
        n, seed, traffic=quiet_and_loud(n, seed)[0], **{"categories": SMALL, **how}
    )


WAYS = {
    "default": {},
    "matched": {"score": d.MatchedFilter()},
    "mahalanobis": {"score": None, "unknown": d.Mahalanobis()},
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_false_alarms_are_as_rare_as_asked_for_in_each_category(how):
    alpha, rates = 0.1, torch.zeros(2)
    for seed in range(6):
        monitor = fitted(seed=seed, **how)
        fresh, loud = quiet_and_loud(400, 5000 + seed)
        assert torch.equal(scores_of(monitor, fresh).category == 1, loud) or torch.equal(
            scores_of(monitor, fresh).category == 0, loud
        )
        flagged = scores_of(monitor, fresh).p_values <= alpha
        rates += torch.stack([flagged[own].float().mean() for own in (loud, ~loud)]) / 6
    # 90 calibration requests of each: the rate is a draw from Beta(9, 82), of deviation .031.
    assert bool((rates - alpha).abs().lt(3 * 0.035 / 6**0.5).all()), rates


def test_scales_are_those_of_the_category_s_own_requests():
    """Location and scale of every part and phase, restated: median, and mean excess over it."""
    monitor, traffic = fitted(), quiet_and_loud(400, 0)[0]
    few = traffic[split_of(400)[1]]
    tokens = monitor.reader.tokens([few.activations["here"]], few.mask)
    for category in (0, 1):
        rows = tokens.category == category
        for phase, span in enumerate((slice(0, 1), slice(1, POS))):
            for part in (0, 1):
                peaks = tokens.parts[part, 0, rows, span].amax(dim=1).double()
                peaks = peaks[peaks.isfinite()]
                middle = peaks.quantile(0.5)
                excess = (peaks[peaks > middle] - middle).mean()
                found = monitor.reader.levels[category, 0, phase, part, :2]
                torch.testing.assert_close(found, torch.stack([middle, excess]).float())


def test_with_one_category_all_alarms_come_from_what_varies_most():
    """The control: the same monitor, with every request compared with all."""
    monitor = fitted(categories=None, score=None, unknown=d.Mahalanobis())
    fresh, loud = quiet_and_loud(400, 5000)
    flagged = scores_of(monitor, fresh).p_values <= 0.1
    assert int(flagged[~loud].sum()) == 0
    assert float(flagged[loud].float().mean()) > 0.1


@pytest.mark.parametrize("name", ["matched", "mahalanobis"])  # cosines do not mind loudness
def test_what_is_odd_for_its_own_kind_only_is_found(name):
    how, (odd, loud) = WAYS[name], quiet_and_loud(200, 77, odd=2 * responses()[1])
    apart = scores_of(fitted(**how), odd).p_values[~loud]
    together = scores_of(fitted(**{**how, "categories": None}), odd).p_values[~loud]
    assert float((apart <= 0.05).float().mean()) > 0.9
    assert float((together <= 0.05).float().mean()) < 0.3


def test_a_category_without_a_calibration_request_is_refused():
    def lonely(ends, calibrating):
        far = torch.stack([torch.zeros(WIDTH), 1e6 * torch.ones(WIDTH)])
        return Categories(torch.zeros(WIDTH), far, torch.tensor([0, 1]))

    with pytest.raises(SettingError, match=r"of category \[1\]"):
        fitted(categories=lonely)


def test_every_category_has_a_threshold_of_its_own():
    monitor = fitted()
    fresh = quiet_and_loud(300, 78, odd=responses()[0])[0]
    found, limits = scores_of(monitor, fresh), monitor.thresholds(0.05)
    assert len(limits) == 2
    over = found.statistic > torch.tensor(limits)[found.category]
    assert torch.equal(over, found.p_values <= 0.05)
    assert 10 < int(over.sum()) < 290


def test_a_level_that_the_smallest_category_cannot_resolve_is_refused():
    monitor = fitted()
    sizes = monitor.calibration.sizes
    assert sum(sizes) == 180
    assert min(sizes) < 99
    with pytest.raises(SettingError, match=r"category \d of requests.*categories="):
        monitor.thresholds(0.01)
    assert monitor.guarantee(0.05).n == min(sizes)
    assert [monitor.guarantee(0.05, category=i).n for i in (0, 1)] == sizes
    with pytest.raises(SettingError, match="there are 2"):
        monitor.guarantee(0.05, category=2)


@pytest.mark.parametrize("chunk", [1, 3, POS])
def test_requests_scored_as_they_grow_are_compared_with_their_own_category(chunk):
    monitor, (traffic, _) = fitted(), quiet_and_loud(40, 82, odd=responses()[1])
    running = Running(monitor.reader, device=torch.device("cpu"))
    running.start(40)
    largest = torch.full((40,), -math.inf)
    for pos in range(POS):
        running.hear(0, traffic.activations["here"][:, pos], traffic.mask[:, pos].tolist())
        if running.waiting == chunk or pos == POS - 1:
            largest = largest.maximum(torch.tensor(running.score()))
    whole = scores_of(monitor, traffic)
    assert running.category == whole.category.tolist()
    assert len(set(running.category)) == 2
    torch.testing.assert_close(largest, whole.statistic)


def test_a_saved_monitor_knows_its_categories(tmp_path):
    monitor, fresh = fitted(), quiet_and_loud(60, 79, odd=responses()[1])[0]
    again = ts.Monitor.load(monitor.save(tmp_path / "monitor.safetensors"))
    one, other = scores_of(monitor, fresh), scores_of(again, fresh)
    assert torch.equal(one.category, other.category)
    assert torch.equal(one.p_values, other.p_values)
    sizes = monitor.calibration.sizes
    assert f"{sizes[0]} + {sizes[1]} calibration requests" in repr(again)


DAMAGE = {
    "a category that no request has": {"members": torch.tensor([0, 2])},
    "too few members": {"members": torch.tensor([0])},
    "members that are no numbers": {"members": torch.tensor([0.0, 1.0])},
    "another width": {"mean": torch.zeros(3)},
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_damaged_categories_are_refused(tmp_path, monkeypatch, change):
    monitor = fitted()
    meta, tensors = panelfile._pack(monitor)
    whole = {"centres": torch.eye(WIDTH)[:2], "members": torch.tensor([0, 1])} | change
    tensors |= {f"categories.{name}": values for name, values in whole.items()}
    monkeypatch.setattr(panelfile, "_pack", lambda _: (meta, tensors))
    path = panelfile.save_panel(monitor, tmp_path / "monitor.safetensors")
    with pytest.raises(BankFileError, match="categories of requests are damaged"):
        panelfile.load_panel(path)


def test_a_monitor_without_categories_is_of_another_version(tmp_path, monkeypatch):
    monitor = fitted()
    meta, tensors = panelfile._pack(monitor)
    rest = {name: values for name, values in tensors.items() if "categories" not in name}
    monkeypatch.setattr(panelfile, "_pack", lambda _: (meta, rest))
    path = panelfile.save_panel(monitor, tmp_path / "monitor.safetensors")
    with pytest.raises(BankFileError, match="another version"):
        panelfile.load_panel(path)


def test_a_calibration_of_other_categories_is_refused(tmp_path):
    monitor = fitted()
    kept = dataclasses.replace(monitor.calibration, category=monitor.calibration.category + 1)
    other = dataclasses.replace(monitor, calibration=kept)
    path = panelfile.save_panel(other, tmp_path / "monitor.safetensors")
    with pytest.raises(BankFileError, match="categories"):
        panelfile.load_panel(path)


def test_a_watched_model_s_requests_have_the_p_values_of_their_category(one, tmp_path):
    """Two kinds of prompts, by their last word; the session agrees with the offline scores."""
    clean = [f"{text} t{3 + 5 * (i % 2)}" for i, text in enumerate(prompts(300))]
    monitor = ts.Monitor.fit(
        one,
        bank_of(one),
        clean,
        score=d.MatchedFilter(),
        horizon=2,
        categories=Clusters(smallest=30),
    )
    assert len(monitor.reader.categories) >= 2
    some = [f"{text} t{3 + 5 * (i % 2)}" for i, text in enumerate(prompts(60, seed=9))]
    traffic = observe(one, some, sites=[TARGET], horizon=2)
    found = scores_of(monitor, traffic)
    log = tmp_path / "audit.sqlite"
    with ts.watch(one, monitor, alpha=0.2, drift=None, log=log) as w:
        for text in some:
            one.generate(ts.tokenize(one, [text]).ids, max_new_tokens=3, do_sample=False)
    assert len(set(found.category.tolist())) >= 2
    told = sorted(alert.p_value for alert in w.alerts)
    expected = sorted(found.p_values[found.p_values <= 0.2].tolist())
    assert 0 < len(told) < 60
    assert told == pytest.approx(expected)
    logged = [row["p_value"] for row in read_log(log, "requests")]
    assert logged == pytest.approx(found.p_values.tolist())
    limits, flagged = monitor.thresholds(0.2), found.category[found.p_values <= 0.2]
    assert [a.threshold for a in w.alerts] == pytest.approx([limits[i] for i in flagged.tolist()])
    assert len(set(flagged.tolist())) >= 2
