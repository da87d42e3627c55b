"""Monitors: fitted on clean prompts, they find steered requests, name the vector, and keep their
promise about false alarms."""

import dataclasses
import math

import pytest
import torch
from conftest import SOURCE, TARGET, bank_of, make
from tiny_monitor import (
    HORIZON,
    POS,
    VEC,
    WIDTH,
    bank_without_a_model,
    examples,
    monitor_of,
    monitor_without_a_model,
    prompts,
    responses,
    scores_of,
    synthetic,
)

import tl_steer as ts
from tl_steer.errors import (
    BankFileError,
    ForeignModelError,
    PromptError,
    SettingError,
    ShapeError,
)
from tl_steer.monitoring import file as panelfile, panel
from tl_steer.monitoring.alert import alert_for
from tl_steer.monitoring.detectors import FITTED, detector as d, fitted
from tl_steer.monitoring.detectors.detector import Reference
from tl_steer.monitoring.evidence import spoken_effects
from tl_steer.monitoring.identity import shared_ends
from tl_steer.monitoring.monitor import split_of
from tl_steer.monitoring.running import Running
from tl_steer.monitoring.statistics.level import Level
from tl_steer.monitoring.traffic import observe

WAYS = {
    "default": {},
    "cosine": {"score": d.WhitenedCosine()},
    "three scores": {"score": [d.MatchedFilter(), d.WhitenedCosine(), d.LocalMatchedFilter()]},
    "matched": {"score": d.MatchedFilter()},
    "search": {"score": d.Search(rank=8, candidates=3)},
    "bank alone": {"unknown": None},
    "named by the score": {"namer": None},
    "prompts' ends too": {"ends": 1},
    "mahalanobis alone": {"score": None, "unknown": d.Mahalanobis()},
    "local": {"score": d.LocalMatchedFilter(k=8), "unknown": d.Outlier(k=8)},
    "outlier alone": {"score": None, "unknown": d.Outlier()},
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_the_rate_of_false_alarms_is_the_one_asked_for(how):
    alpha, rates = 0.1, []
    for seed in range(6):
        monitor = monitor_without_a_model(n=120, seed=seed, **how)
        fresh = scores_of(monitor, synthetic(200, 5000 + seed))
        rates.append(float((fresh.p_values <= alpha).double().mean()))
    # 54 calibration requests each: the rate is a draw from Beta(5, 50), of deviation .04.
    assert abs(sum(rates) / len(rates) - monitor.guarantee(alpha).expected) < 3 * 0.05 / 6**0.5


# Neighbours compare directions only, which so few dimensions do not tell apart.
ABLE = {k: how for k, how in WAYS.items() if k != "outlier alone"}


@pytest.mark.parametrize("name", ABLE)
def test_what_a_vector_does_is_flagged_and_the_vector_named(name):
    how = ABLE[name]
    hits, named = [], []
    for seed in range(6):  # one draw of clean requests may be a bad one
        monitor = monitor_without_a_model(seed=seed, **how)
        found = scores_of(monitor, synthetic(60, 77, response=responses()[1]))
        flagged = found.p_values <= 0.05
        hits.append(float(flagged.double().mean()))
        if how.get("score", True) is not None:
            named.append(float((found.vectors[flagged, 0] == 1).double().mean()))
    assert sum(hits) / 6 > 0.8
    assert all(share > 0.9 for share in named)


def test_parts_are_brought_to_one_scale_by_few_requests():
    """Half of 40 exponential draws tell their scale to 22%; one in five would to 35%."""
    drawn = torch.distributions.Exponential(1 / 3).sample
    torch.manual_seed(0)
    mask = torch.ones(40, 1, dtype=torch.bool)
    levels = [Level.of(drawn((40, 1)), mask, 0.1) for _ in range(400)]
    scales = torch.tensor([level.scale for level in levels])
    assert abs(float(scales.mean()) - 3) < 0.1
    assert float(scales.std()) / 3 < 0.28
    locations = torch.tensor([level.location for level in levels])
    assert abs(float(locations.mean()) - 3 * math.log(2)) < 0.15


def test_what_no_vector_does_is_an_unknown_anomaly_and_what_one_does_a_known_perturbation():
    monitor = monitor_without_a_model(400)
    basis = torch.linalg.qr(responses().T, mode="complete").Q
    kinds = {}
    for name, change in (("known", responses()[2]), ("unknown", 60 * basis[:, -1])):
        found = scores_of(monitor, synthetic(40, 78, response=change))
        alerts = [
            alert_for(monitor, found, i, request="r", alpha=0.05, ids=[0] * POS)
            for i in range(40)
            if found.p_values[i] <= 0.05
        ]
        assert len(alerts) > 30
        kinds[name] = sum(alert.kind == "known perturbation" for alert in alerts) / len(alerts)
    assert kinds["known"] > 0.9
    assert kinds["unknown"] < 0.5


def test_the_token_that_fired_is_the_one_that_was_steered():
    monitor = monitor_without_a_model(unknown=None)
    found = scores_of(monitor, synthetic(40, 79, response=responses()[0], at=3))
    alerts = [
        alert_for(monitor, found, i, request="r", alpha=0.05, ids=[0] * POS)
        for i in range(40)
        if found.p_values[i] <= 0.05
    ]
    assert len(alerts) > 30
    assert sum(3 in [t.position for t in alert.tokens] for alert in alerts) > 0.9 * len(alerts)
    assert all(alert.tokens for alert in alerts)
    assert all(a.alternatives[0].rank == 2 and len(a.alternatives) == VEC - 1 for a in alerts)


def test_tokens_behind_the_mask_do_not_matter():
    monitor = monitor_without_a_model()
    traffic = synthetic(20, 80)
    junk = traffic.activations["here"].masked_fill(~traffic.mask[..., None], 1e6)
    plain, other = scores_of(monitor, traffic), monitor.score(junk, mask=traffic.mask)
    assert torch.equal(plain.statistic, other.statistic)
    assert torch.equal(plain.vectors, other.vectors)


def nats(clean, value, odds):
    """log(1 + odds / P(X >= value)) for Laplace's distribution, as torch has it, with the median of
    `clean` and the mean excess over it."""
    at = clean.double().quantile(0.5)
    spread = (clean[clean > at].double() - at).mean()
    p = 1 - torch.distributions.Laplace(at, spread).cdf(value.double())
    return (1 + odds / p).log()


@pytest.mark.parametrize("ends", [0, 0.5, 1])
def test_a_request_s_statistic_is_that_of_its_oddest_token_with_what_counts_of_its_prompt(ends):
    """All parts, restated with the scores of single tokens."""
    monitor, traffic = monitor_without_a_model(ends=ends), synthetic(40, 83)
    scale = synthetic(200, 0)[split_of(200)[1]]
    reader, total = monitor.reader, torch.zeros(3, 40, POS)
    of_scale = reader.tokens([scale.activations["here"]], scale.mask).parts[:, 0]
    here = reader.tokens([traffic.activations["here"]], traffic.mask).parts[:, 0]
    for part in (0, 1, 2):
        for span in (slice(0, 1), slice(1, POS)):
            peaks = of_scale[part][:, span].amax(dim=1)
            clean = peaks[peaks.isfinite()]
            total[part][:, span] = nats(clean, here[part][:, span], 0.1).float()
    total[..., 0] *= ends
    total[..., 1:] += total[..., :1]
    total[:, ~traffic.mask] = -math.inf
    found = scores_of(monitor, traffic)
    torch.testing.assert_close(found.statistic, total.sum(dim=0).amax(dim=1), rtol=1e-4, atol=1e-4)
    known = total[:2].sum(dim=0).amax(dim=1)
    torch.testing.assert_close(found.known, known, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.unknown, total[2].amax(dim=1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.tokens, total.sum(dim=0), rtol=1e-4, atol=1e-4)


def test_what_is_odd_at_a_prompt_s_end_alone_raises_an_alarm_only_where_ends_count():
    odd = synthetic(60, 84, response=2 * responses()[1], at=0)
    rates = [
        float((scores_of(monitor_without_a_model(ends=ends), odd).p_values <= 0.05).float().mean())
        for ends in (0, 1)
    ]
    assert rates[0] < 0.2
    assert rates[1] > 0.9


def test_a_monitor_for_which_nothing_counts_is_refused():
    only = synthetic(200, 0)
    prompts_alone = dataclasses.replace(
        only,
        activations={"here": only.activations["here"][:, :1]},
        mask=only.mask[:, :1],
        ids=only.ids[:, :1],
    )
    with pytest.raises(SettingError, match="nothing would count"):
        monitor_without_a_model(traffic=prompts_alone)
    with pytest.raises(SettingError, match="ends=-1"):
        monitor_without_a_model(ends=-1)
    assert len(scores_of(monitor_without_a_model(traffic=prompts_alone, ends=1), prompts_alone))


def test_prompts_alone_are_refused_where_answers_alone_count():
    at_ends = synthetic(5, 85).activations["here"][:, :1]
    with pytest.raises(ShapeError, match="ends=1"):
        monitor_without_a_model().score(at_ends)
    assert len(monitor_without_a_model(ends=1).score(at_ends)) == 5


def test_nats_rise_with_the_score_however_far_out():
    level = Level(2.0, 0.5, 0.1)
    values = torch.tensor([-math.inf, -30.0, 1.0, 2.0, 2.5, 60.0, 6e4])
    nats = level.nats(values)
    assert bool((nats.diff() >= 0).all())
    assert float(nats[3]) == pytest.approx(math.log(1.2))
    assert float(nats[-1]) == pytest.approx(2 * (6e4 - 2) + math.log(0.2))
    each = [level.nats_of(float(value)) for value in values]
    torch.testing.assert_close(torch.tensor(each), nats)


def test_requests_together_score_as_each_alone():
    monitor = monitor_without_a_model()
    traffic = synthetic(80, 81)
    together = scores_of(monitor, traffic)
    for i in (0, 17, 79):
        n = int(traffic.mask[i].sum())
        alone = monitor.score(traffic.activations["here"][i : i + 1, :n])
        torch.testing.assert_close(alone.statistic[0], together.statistic[i])
        assert torch.equal(alone.vectors[0], together.vectors[i])


@pytest.mark.parametrize("chunk", [1, 2, 3, POS])
@pytest.mark.parametrize("ends", [0, 1])
@pytest.mark.parametrize(
    "how",
    [{}, {"unknown": None}, {"score": None, "unknown": d.Mahalanobis()}],
    ids=["all parts", "known parts", "unknown part"],
)
def test_requests_scored_as_they_grow_have_the_statistics_of_whole_ones(chunk, ends, how):
    monitor, traffic = monitor_without_a_model(ends=ends, **how), synthetic(40, 82)
    running = Running(monitor.reader, device=torch.device("cpu"))
    running.start(3)  # of another batch, which leaves nothing behind
    running.hear(0, torch.full((3, WIDTH), 1e6), [True] * 3)
    running.start(40)
    largest = torch.full((40,), -float("inf"))
    for pos in range(POS):
        running.hear(0, traffic.activations["here"][:, pos], traffic.mask[:, pos].tolist())
        if running.waiting == chunk or pos == POS - 1:
            largest = largest.maximum(torch.tensor(running.score()))
            assert running.waiting == 0
    torch.testing.assert_close(largest, scores_of(monitor, traffic).statistic)


def summed_shares(n, traffic, steered):
    """Every vector's evidence per request, restated token by token: the largest squared cosine with
    a prompt's examples (zero beyond a right angle), mean over prompts, sum over tokens."""
    fit = synthetic(n, 0)[split_of(n)[0]]
    at, clean = traffic.activations["here"], fit.activations["here"]
    centres = [clean[:, 0].mean(dim=0), clean[:, 1:][fit.mask[:, 1:]].mean(dim=0)]
    total = torch.zeros(len(at), VEC)
    for i, j in traffic.mask.nonzero().tolist():
        left = at[i, j] - centres[j > 0]
        for k, seen in enumerate(steered[j > 0]):
            cosines = torch.cosine_similarity(seen - centres[j > 0], left, dim=-1)
            total[i, k] += cosines.clamp_min(0).square().amax(dim=1).mean()
    return total


def test_alarms_are_the_scores_and_names_are_the_namers():
    traffic = synthetic(30, 91, response=responses()[1] + responses()[2])
    found = scores_of(monitor_without_a_model(150), traffic)
    best = summed_shares(150, traffic, examples(0)).topk(VEC, dim=1)
    torch.testing.assert_close(found.values, best.values, rtol=2e-3, atol=2e-3)
    clear = (best.values[:, 0] - best.values[:, 1]) > 0.01
    assert int(clear.sum()) > 20
    assert torch.equal(found.vectors[clear, 0], best.indices[clear, 0])
    other = scores_of(monitor_without_a_model(150, namer=d.MatchedFilter()), traffic)
    assert torch.equal(found.statistic, other.statistic)
    assert torch.equal(found.known_p, other.known_p)
    assert not torch.equal(found.values, other.values)


SEVERAL = d.WhitenedCosine(), d.LocalMatchedFilter()


@pytest.mark.parametrize("score", [SEVERAL[0], SEVERAL], ids=["one", "several"])
def test_without_a_namer_the_scores_name_by_the_peaks_of_their_sum(score):
    traffic = synthetic(30, 92, response=responses()[1])
    monitor = monitor_without_a_model(score=score, namer=None)
    found = scores_of(monitor, traffic)
    phases = monitor.reader.phases[0]
    at, mask = traffic.activations["here"], traffic.mask
    by_token = torch.cat(
        [sum(known(at[:, s].flatten(0, 1)) for known in phases[i].known)
         .unflatten(0, at[:, s].shape[:2])
         for i, s in enumerate((slice(0, 1), slice(1, POS)))], dim=1,
    )  # fmt: skip
    peaks = by_token.masked_fill(~mask[..., None], -math.inf).amax(dim=1).topk(VEC, dim=1)
    torch.testing.assert_close(found.values, peaks.values)
    assert torch.equal(found.vectors, peaks.indices)


def test_a_monitor_without_the_bank_names_nothing():
    found = scores_of(monitor_without_a_model(score=None, unknown=d.Mahalanobis()), synthetic(5, 1))
    assert found.vectors.shape == (5, 0)


def test_activations_that_were_not_calibrated_are_refused():
    monitor = monitor_without_a_model()
    with pytest.raises(ShapeError, match="at most 4 generated"):
        monitor.score(torch.zeros(2, POS + 1, WIDTH))
    with pytest.raises(ShapeError, match="expected"):
        monitor.score(torch.zeros(2, POS, WIDTH + 1))
    with pytest.raises(ShapeError, match="site name"):
        monitor.score({"elsewhere": torch.zeros(2, POS, WIDTH)})
    with pytest.raises(SettingError, match="cannot be had"):
        monitor.thresholds(0.001)


def test_nothing_to_detect_with_is_refused():
    with pytest.raises(SettingError, match="nothing to detect"):
        monitor_without_a_model(score=None, unknown=None)
    with pytest.raises(PromptError, match="too few"):
        split_of(5)


def test_the_three_splits_never_overlap():
    parts = split_of(101, seed=3)
    together = [i for part in parts for i in part]
    assert sorted(together) == list(range(101))


def test_a_saved_monitor_scores_the_same_bit_for_bit(tmp_path):
    for i, how in enumerate(WAYS.values()):
        monitor = monitor_without_a_model(**how)
        again = ts.Monitor.load(monitor.save(tmp_path / f"{i}.safetensors"))
        here, there = (scores_of(m, synthetic(30, 82)) for m in (monitor, again))
        for name in vars(here):
            torch.testing.assert_close(
                getattr(here, name), getattr(there, name), rtol=0, atol=0, equal_nan=True
            )
        assert again.settings == monitor.settings
        assert repr(again) == repr(monitor)


SHARING = (
    {},
    {"score": d.Search(rank=8, candidates=3)},
    {"score": [d.WhitenedCosine(), d.Search(rank=8, candidates=3)]},
)


@pytest.mark.parametrize("how", SHARING, ids=["cosine", "search", "two scores"])
def test_both_parts_of_a_token_cost_one_map_and_are_what_each_detector_says(
    how, tmp_path, monkeypatch
):
    made = monitor_without_a_model(**how)
    made.save(tmp_path / "monitor.safetensors")
    tokens = synthetic(6, 70).activations["here"][:, 1]
    calls = []
    plain = fitted.Mapped.mapped

    def counted(self, activations):
        calls.append(type(self).__name__)
        return plain(self, activations)

    monkeypatch.setattr(fitted.Mapped, "mapped", counted)
    for monitor in (made, ts.Monitor.load(tmp_path / "monitor.safetensors")):
        phase = monitor.reader.phases[0][1]
        calls.clear()
        vectors, anomaly = phase.read(tokens)
        assert len(calls) == 1
        for scores, known in zip(vectors, phase.known, strict=True):
            torch.testing.assert_close(scores, known(tokens))
        torch.testing.assert_close(anomaly, phase.unknown(tokens)[:, 0])


def test_parts_that_look_through_different_maps_are_read_apart():
    def raw_cosine(reference):
        mean = reference.clean.mean(dim=0)
        directions = torch.nn.functional.normalize(reference.responses, dim=1).T
        return fitted.Cosines(torch.eye(WIDTH), -mean, directions.contiguous())

    phase = monitor_without_a_model(score=raw_cosine).reader.phases[0][1]
    tokens = synthetic(6, 70).activations["here"][:, 1]
    vectors, anomaly = phase.joined().read(tokens)
    torch.testing.assert_close(vectors[0], phase.known[0](tokens))
    torch.testing.assert_close(anomaly, phase.unknown(tokens)[:, 0])


def test_every_score_is_a_part_of_its_own_and_the_statistic_their_sum():
    """Of one site and token: parts add up, whichever monitor they are in."""
    traffic = synthetic(30, 93, response=responses()[1])
    first, second, both = (
        scores_of(monitor_without_a_model(score=score, unknown=None, categories=None), traffic)
        for score in (*SEVERAL, SEVERAL)
    )
    torch.testing.assert_close(both.tokens, first.tokens + second.tokens)
    torch.testing.assert_close(both.known, both.statistic)  # a part that is not there adds nothing


@pytest.mark.parametrize(
    ("score", "parts"),
    [(None, 1), (SEVERAL[0], 2), (SEVERAL, 3), ([*SEVERAL, d.MatchedFilter()], 4)],
)
def test_a_token_has_a_part_for_every_score_and_the_unknown_one(score, parts):
    assert monitor_without_a_model(score=score).reader.parts == parts


@pytest.mark.parametrize("score", [SEVERAL[0], SEVERAL], ids=["one", "several"])
def test_no_more_scores_are_in_memory_than_fit(score, monkeypatch):
    reader = monitor_without_a_model(score=score).reader
    mask = torch.ones(7, POS, dtype=torch.bool)
    monkeypatch.setattr(panel, "_NUMBERS", 3 * VEC * POS)
    found = list(panel.batches(reader, mask))
    expected = [3, 3, 1] if score is SEVERAL[0] else [1] * 7
    assert [len(range(*rows.indices(7))) for rows in found] == expected


@pytest.mark.parametrize("known", [-1, 9, None], ids=["fewer than none", "too many", "not told"])
def test_a_file_that_misstates_how_many_scores_there_are_is_refused(known, tmp_path):
    meta, tensors = panelfile._pack(monitor_without_a_model())
    if known is None:
        del meta["known"]
    else:
        meta["known"] = known
    with pytest.raises(BankFileError, match="another version" if known is None else "0 to 8"):
        panelfile._unpack(meta, tensors, tmp_path)


def test_a_file_without_one_of_its_detectors_is_refused(tmp_path):
    meta, tensors = panelfile._pack(monitor_without_a_model())
    del meta["detectors"]["detector.0.1.known.1"]
    path = panelfile._FILE.write(tmp_path / "m.safetensors", meta, tensors)
    with pytest.raises(BankFileError, match=r"0\.1\.known\.1"):
        ts.Monitor.load(path)


def test_neighbours_are_looked_for_among_so_many_tokens_at_most():
    reference = Reference(
        clean=torch.randn(50, 6), responses=torch.randn(2, 6), steered=torch.randn(2, 3, 6),
        background=torch.randn(9, 6), per_prompt=1,
    )  # fmt: skip
    for score in (d.Outlier, d.LocalMatchedFilter):
        few = score(most=10)(reference)
        every = {tuple(row) for row in (few.clean + few.centre).mul(1e3).round().tolist()}
        rows = reference.clean[[0, 5, 10, 16, 21, 27, 32, 38, 43, 49]]
        assert every == {tuple(row) for row in rows.mul(1e3).round().tolist()}
        assert len(score(most=50)(reference).clean) == 50
        assert score(k=9, most=4)(reference).k == 3  # all but one


def test_detectors_of_another_version_are_refused_and_not_left_out(tmp_path):
    meta, tensors = panelfile._pack(monitor_without_a_model())
    meta["detectors"]["detector.0.0.elsewhere"] = {"kind": "Affine", "numbers": {}}
    path = panelfile._FILE.write(tmp_path / "m.safetensors", meta, tensors)
    with pytest.raises(BankFileError, match=r"unknown places.*0\.0\.elsewhere"):
        ts.Monitor.load(path)


def test_levels_of_another_version_are_refused_when_the_file_is_read(tmp_path):
    made = monitor_without_a_model()
    old = dataclasses.replace(made.reader, levels=made.reader.levels[..., :2])
    dataclasses.replace(made, reader=old).save(tmp_path / "old.safetensors")
    with pytest.raises(BankFileError, match="Fit the monitor anew"):
        ts.Monitor.load(tmp_path / "old.safetensors")


def test_monitors_that_added_scores_up_are_refused(tmp_path, monkeypatch):
    def summed(levels):
        return torch.cat([torch.ones_like(levels[..., :1]), levels], dim=-1)

    monkeypatch.setattr(panelfile, "_with_allowance", summed)
    monitor_without_a_model().save(tmp_path / "old.safetensors")
    with pytest.raises(BankFileError, match=r"adds scores up along tokens.*Fit the monitor anew"):
        ts.Monitor.load(tmp_path / "old.safetensors")


def test_a_detector_that_is_no_more_is_named(tmp_path, monkeypatch):
    path = monitor_without_a_model().save(tmp_path / "old.safetensors")
    monkeypatch.delitem(FITTED, "Cosines")
    with pytest.raises(BankFileError, match=r"no detector 'Cosines'.*Fit the monitor anew"):
        ts.Monitor.load(path)


def test_a_detector_that_no_file_can_hold_is_scored_with_but_not_saved(tmp_path):
    def own(reference):
        return lambda activations: activations @ reference.responses.T

    monitor = monitor_without_a_model(score=own)
    assert len(scores_of(monitor, synthetic(5, 1))) == 5
    with pytest.raises(SettingError, match="cannot be saved"):
        monitor.save(tmp_path / "m.safetensors")


def test_a_monitor_with_more_scores_than_a_file_holds_is_not_saved(tmp_path):
    monitor = monitor_without_a_model(score=[d.MatchedFilter()] * 9)
    with pytest.raises(SettingError, match=r"8 scores at most.*9"):
        monitor.save(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_damaged_files_and_other_files_are_refused(tmp_path):
    path = monitor_without_a_model().save(tmp_path / "m.safetensors")
    whole = path.read_bytes()
    for payload in (whole[:-9], b"", whole.replace(b'\\"horizon\\": 4', b'\\"horizon\\": 5')):
        assert payload != whole
        path.write_bytes(payload)
        with pytest.raises(BankFileError):
            ts.Monitor.load(path)
    with pytest.raises(BankFileError, match="No monitor"):
        ts.Monitor.load(tmp_path / "none")
    bank = bank_without_a_model().save(tmp_path / "b.safetensors")
    with pytest.raises(BankFileError, match="no monitor"):
        ts.Monitor.load(bank)


# --- on models ----------------------------------------------------------------------------------


def test_what_is_observed_during_generation_is_what_one_pass_over_the_whole_text_gives(model):
    traffic = observe(model, prompts(6, seed=2), sites=[TARGET, SOURCE], horizon=HORIZON)
    for i, prompt in enumerate(traffic.prompts):
        said = traffic.mask[i]
        whole = torch.cat([prompt, traffic.ids[i, 1:][said[1:]]])[None]
        with torch.no_grad(), ts.capturing(model, [TARGET, SOURCE]) as seen:
            model(whole)
        for name in (TARGET, SOURCE):
            expected = seen[name][0, len(prompt) - 1 :]
            found = traffic.activations[name][i, said]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_nothing_is_observed_behind_the_end_of_text(one):
    traffic = observe(one, prompts(40, seed=5), sites=[TARGET], horizon=12)
    assert not bool((traffic.ids[:, 1:][traffic.mask[:, 1:]] == 1).any())
    assert bool(traffic.mask[:, 0].all())
    short = ~traffic.mask.all(dim=1)
    assert not bool(traffic.activations[TARGET][short][~traffic.mask[short]].any())


def test_spoken_effects_are_differences_of_what_is_said_with_and_without_the_vector(one):
    bank = bank_of(one)
    traffic = observe(one, prompts(4, seed=3), sites=[TARGET, SOURCE], horizon=HORIZON)
    found = spoken_effects(one, bank, traffic, batch_rows=5)
    for row, name in ((0, TARGET), (3, TARGET), (3, SOURCE)):
        with ts.perturbing(one, bank[row]):
            steered = observe(
                one, list(traffic.prompts), sites=[name], horizon=HORIZON, batch_rows=1
            )
        first = (steered.activations[name] - traffic.activations[name])[:, 0].mean(dim=0)
        spoken = [
            torch.stack([
                at[1:][mask[1:]].mean(dim=0)
                for at, mask in zip(told.activations[name], told.mask, strict=True)
                if bool(mask[1:].any())
            ]).mean(dim=0)
            for told in (steered, traffic)
        ]  # fmt: skip
        tolerance = {"rtol": 1e-3, "atol": 1e-3}
        torch.testing.assert_close(found[name].responses[0][row], first, **tolerance)
        second = spoken[0] - spoken[1]
        torch.testing.assert_close(found[name].responses[1][row], second, **tolerance)
        torch.testing.assert_close(
            found[name].steered[0][row], steered.activations[name][:, 0], **tolerance
        )
        by_prompt = found[name].steered[1][row].unflatten(0, (len(traffic), -1))
        for kept, at, mask in zip(by_prompt, steered.activations[name], steered.mask, strict=True):
            own = at[1:][mask[1:]] if bool(mask[1:].any()) else at[:1]
            torch.testing.assert_close(kept[0], own[0], **tolerance)
            torch.testing.assert_close(kept[-1], own[-1], **tolerance)


def test_a_vector_that_makes_the_model_say_nothing_is_known_by_prompts_ends(one, monkeypatch):
    from tl_steer.monitoring import traffic as module

    traffic = observe(one, prompts(3, seed=3), sites=[TARGET], horizon=HORIZON)
    original = module._Keeper.rows

    def silent(self, end):
        return [
            module.Kept(row.ids[:1], [at[:1] for at in row.activations])
            for row in original(self, end)
        ]

    monkeypatch.setattr(module._Keeper, "rows", silent)
    found = spoken_effects(one, bank_of(one), traffic)[TARGET]
    torch.testing.assert_close(found.responses[0], found.responses[1])
    assert found.steered[1].shape[:2] == (len(bank_of(one)), 4 * len(traffic))


def test_steered_answers_are_flagged_by_the_vector_that_steers_them(llama):
    bank, monitor = bank_of(llama), monitor_of(llama)
    with ts.perturbing(llama, bank[2]):
        steered = observe(llama, prompts(30, seed=9), sites=[TARGET], horizon=HORIZON)
    found = scores_of(monitor, steered)
    assert float((found.p_values <= 0.05).double().mean()) > 0.8
    assert float((found.vectors[:, 0] == 2).double().mean()) > 0.8
    clean = scores_of(monitor, observe(llama, prompts(60, seed=8), sites=[TARGET], horizon=HORIZON))
    # 52 calibration requests: the rate is a draw from Beta(2, 51), below .11 for 98% of them.
    assert float((clean.p_values <= 0.05).double().mean()) < 0.2


def test_a_monitor_can_read_two_layers_and_knows_them_by_name(one):
    both = monitor_of(one, (SOURCE, TARGET))
    traffic = observe(one, prompts(10, seed=4), sites=[TARGET, SOURCE], horizon=HORIZON)
    found = scores_of(both, traffic)
    one_site = [
        dataclasses.replace(both.reader, phases=(p,), levels=level[None, None])
        for p, level in zip(both.reader.phases, both.reader.levels[0], strict=True)
    ]
    alone = [
        reader.nats(reader.tokens([traffic.activations[name]], traffic.mask), traffic.mask)
        for reader, name in zip(one_site, (SOURCE, TARGET), strict=True)
    ]
    torch.testing.assert_close(found.tokens, sum(alone).sum(dim=0))
    with pytest.raises(ShapeError, match="site name"):
        both.score(traffic.activations[TARGET])


def test_a_monitor_can_be_restricted_to_marked_vectors(one):
    bank = ts.mark(bank_of(one), 3, "dangerous", note="says t5")
    bank = ts.mark(bank, 1, "benign")
    monitor = ts.Monitor.fit(one, bank, prompts(40), horizon=2, only="dangerous", effect_prompts=4)
    assert monitor.bank.labels == ("dangerous: says t5",)
    assert torch.equal(monitor.bank.vectors[0], bank.vectors[3])
    assert len(ts.banks.marked(bank, ["dangerous", "benign"])) == 2
    assert len(ts.banks.marked(bank, "")) == len(bank) - 2
    with pytest.raises(SettingError, match="marked"):
        ts.banks.marked(bank_of(one), "dangerous")
    with pytest.raises(SettingError, match="verdict="):
        ts.mark(bank, 0, "evil")


def test_a_bank_of_another_model_is_refused(llama):
    import dataclasses

    bank = bank_of(llama)
    mark = dataclasses.replace(bank.provenance.fingerprint, signature=(0.5,) * 48)
    foreign = dataclasses.replace(
        bank, provenance=dataclasses.replace(bank.provenance, fingerprint=mark)
    )
    with pytest.raises(ForeignModelError):
        ts.Monitor.fit(llama, foreign, prompts(40), horizon=2)


def test_shared_ends_leave_what_differs():
    rows = [torch.tensor(r) for r in ([1, 2, 5, 9, 8], [1, 2, 6, 6, 9, 8], [1, 2, 9, 8])]
    assert shared_ends(rows) == ((1, 2), (9, 8))
    assert shared_ends([torch.tensor([1, 1]), torch.tensor([1, 1, 1])]) == ((1, 1), ())


def test_the_shared_tiny_models_are_left_as_they_were(one):
    before = {name: len(point.fwd_hooks) for name, point in one.hook_dict.items()}
    assert set(before.values()) == {0}
    assert "forward" not in vars(one)
    assert make is not None
