"""A monitor as a view, against scikit-learn, numpy, scipy and counting by hand."""

import dataclasses
import math
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
import torch
from scipy.stats import betabinom
from sklearn.metrics import roc_auc_score, roc_curve
from tiny_monitor import monitor_without_a_model, responses, scores_of, synthetic

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.monitoring.audit import AuditLog
from tl_steer.monitoring.audit_rows import RequestRow
from tl_steer.monitoring.detectors.detector import Mahalanobis
from tl_steer.monitoring.statistics.conformal import Guarantee
from tl_steer.views.rates import false_alarms, histograms, levels, over_time, roc, thinned

ALPHA = 0.05


@pytest.fixture(scope="module")
def monitor():
    return monitor_without_a_model()


@pytest.fixture(scope="module")
def clean(monitor):
    return scores_of(monitor, synthetic(150, 11))


@pytest.fixture(scope="module")
def steered(monitor):
    return scores_of(monitor, synthetic(60, 12, response=0.35 * responses()[1]))


def data_of(monitor, **given):
    return ts.views.monitor_view(monitor, **{"alpha": ALPHA} | given).data


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [1, 6])
def test_the_curve_is_scikit_learns_with_ties_and_without(digits):
    draw = np.random.default_rng(0)
    clean, steered = draw.normal(size=300).round(digits), draw.normal(1, size=200).round(digits)
    false, true, area = roc(clean, steered)
    labels = [0] * 300 + [1] * 200
    expected = roc_curve(labels, np.r_[clean, steered], drop_intermediate=False)
    assert np.allclose(false, expected[0])
    assert np.allclose(true, expected[1])
    assert area == pytest.approx(roc_auc_score(labels, np.r_[clean, steered]))


def test_what_is_minus_infinity_is_flagged_last():
    false, true, area = roc(np.array([-math.inf, 1.0]), np.array([2.0, -math.inf]))
    assert list(zip(false, true, strict=True)) == [(0, 0), (0, 0.5), (0.5, 0.5), (1, 1)]
    assert area == pytest.approx(0.625)


def test_a_thinned_curve_is_the_curve_to_what_eyes_can_tell():
    draw = np.random.default_rng(1)
    clean, steered = draw.normal(size=20_000), draw.normal(1, size=20_000)
    false, true, _ = roc(clean, steered)
    points = np.array(thinned(false, true, 20_000))
    assert len(points) < 2500
    assert (np.diff(points, axis=0) >= 0).all()
    assert points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [1, 1]
    at = np.geomspace(1e-3, 1, 200)
    there = np.interp(at, points[:, 0], points[:, 1])
    assert np.abs(there - np.interp(at, false, true)).max() < 0.012


def test_thinning_leaves_corners_alone():
    false, true, _ = roc(np.array([0.0, 1.0, 2.0]), np.array([1.5, 3.0]))
    assert thinned(false, true, 3) == [(0, 0), (0, 0.5), (1 / 3, 0.5), (1 / 3, 1), (1, 1)]


def test_histograms_share_bins_and_count_what_has_no_place():
    draw = np.random.default_rng(2)
    first, second = draw.normal(size=99), np.r_[draw.normal(3, size=50), math.inf, math.nan]
    found = histograms({"a": first, "b": second})
    edges = np.array(found["edges"])
    a, b = found["groups"]
    assert (edges[0], edges[-1]) == (first.min(), second[:50].max())
    assert a["counts"] == np.histogram(first, edges)[0].tolist()
    assert b["counts"] == np.histogram(second[:50], edges)[0].tolist()
    assert (sum(a["counts"]), a["lost"], sum(b["counts"]), b["lost"]) == (99, 0, 50, 2)


def test_without_numbers_there_are_still_bins():
    found = histograms({"a": np.array([math.nan])})
    assert sum(found["groups"][0]["counts"]) == 0
    assert found["groups"][0]["lost"] == 1


def test_false_alarms_of_one_category_are_the_guarantees():
    for alpha in (0.05, 0.2):
        expected = [Guarantee(alpha, 99).among(150, q) / 150 for q in (0.025, 0.975)]
        assert false_alarms(alpha, [99], [150], (0.025, 0.975)) == pytest.approx(expected)


def test_false_alarms_of_two_categories_add_up():
    draw = np.random.default_rng(3)
    drawn = betabinom.rvs(80, 10, 90, size=(2, 200_000), random_state=draw).sum(axis=0) / 160
    expected = np.quantile(drawn, [0.025, 0.975])
    found = false_alarms(0.1, [99, 99], [80, 80], (0.025, 0.975))
    assert found == pytest.approx(expected.tolist(), abs=1 / 160)


def test_where_nothing_is_random_the_range_is_a_point():
    assert false_alarms(1.0, [9], [20], (0.025, 0.975)) == [1, 1]
    assert false_alarms(0.01, [9], [20], (0.025, 0.975)) == [0, 0]
    assert false_alarms(0.5, [9], [0], (0.025, 0.975)) == [0, 0]


def test_levels_are_p_values_that_there_are():
    found = levels([99, 400])
    assert found[0] == 1 / 100
    assert found[-1] == 1
    assert np.allclose((found * 100).round(), found * 100)


def seconds(*date):
    return datetime(*date, tzinfo=timezone.utc).timestamp()


def test_alerts_are_counted_by_hour_and_day_of_utc():
    times = [seconds(2026, 3, 1, 23, 59, 59), seconds(2026, 3, 2, 0, 0, 0), seconds(2026, 3, 2, 5)]
    asked = [*times, seconds(2026, 3, 1, 22, 30)]
    kinds = ["known perturbation", "drift", "known perturbation"]
    hour, day = over_time(list(zip(times, kinds, strict=True)), asked)
    assert (hour["unit"], day["unit"]) == ("hour", "day")
    assert day["start"] == seconds(2026, 3, 1)
    assert day["kinds"] == [["known perturbation", [1, 1]], ["drift", [0, 1]]]
    assert day["requests"] == [2, 2]
    assert hour["start"] == seconds(2026, 3, 1, 22)
    assert hour["kinds"][0] == ["known perturbation", [0, 1, 0, 0, 0, 0, 0, 1]]


def test_long_logs_have_coarser_bins_and_weeks_begin_on_mondays():
    first = datetime(2025, 1, 1, tzinfo=timezone.utc)
    days = [(first + timedelta(days=i)).timestamp() for i in range(700)]
    week, month = over_time([(at, "drift") for at in days], [])
    assert (week["unit"], month["unit"]) == ("week", "30 days")
    assert datetime.fromtimestamp(week["start"], timezone.utc).weekday() == 0
    assert sum(week["kinds"][0][1]) == 700
    (whole,) = over_time([(0.0, "drift"), (2.4e11, "drift")], [])
    assert len(whole["kinds"][0][1]) <= 400
    assert sum(whole["kinds"][0][1]) == 2
    assert over_time([], []) == []


# --- the view ---------------------------------------------------------------------------------


def test_thresholds_are_those_that_alerts_are_raised_by(monitor, clean, steered):
    ((whole, known),) = data_of(monitor)["thresholds"]
    kept, allowed = monitor.calibration, math.floor(ALPHA * (len(monitor.calibration) + 1))
    assert known == kept.raised("known").sort(descending=True).values[allowed - 1]
    assert whole == kept.raised("statistic").sort(descending=True).values[allowed - 1]
    for scores in (clean, steered):
        assert ((scores.statistic > whole) == (scores.p_values <= ALPHA)).all()
        assert ((scores.known > known) == (scores.known_p <= ALPHA)).all()


def test_a_monitor_without_a_bank_has_one_threshold():
    alone = monitor_without_a_model(score=None, unknown=Mahalanobis())
    ((whole, known),) = data_of(alone)["thresholds"]
    assert math.isfinite(whole)
    assert math.isnan(known)


def test_scores_over_tokens_are_numpys_quantiles_of_requests_that_got_there(monitor, clean):
    (group,) = data_of(monitor, clean=clean)["tokens"]
    tokens = clean.tokens.double().numpy()
    for place in range(tokens.shape[1]):
        there = tokens[np.isfinite(tokens[:, place]), place]
        found = [row[place] for row in group["quantiles"]]
        assert found == pytest.approx(np.quantile(there, [0.05, 0.5, 0.95]), rel=1e-4)
    rows = [one["row"] for one in group["requests"]]
    assert len(rows) == len(set(rows)) == 24
    assert rows[0] == int(clean.statistic.argmax())
    assert rows[-1] == int(clean.statistic.argmin())
    for one in group["requests"]:
        own = tokens[one["row"]]
        assert one["scores"] == pytest.approx(own[np.isfinite(own)], rel=1e-4)


def test_curves_and_rates_are_those_of_the_scores(monitor, clean, steered):
    other = monitor_without_a_model(seed=0, score=None, unknown=Mahalanobis())
    pair = (
        scores_of(other, synthetic(150, 11)),
        scores_of(other, synthetic(60, 12, response=0.35 * responses()[1])),
    )
    own, control = data_of(monitor, clean=clean, steered=steered, controls={"Mahalanobis": pair})[
        "roc"
    ]
    labels = [0] * 150 + [1] * 60
    for curve, (negative, positive) in ((own, (clean, steered)), (control, pair)):
        both = torch.cat([negative.statistic, positive.statistic])
        assert curve["area"] == pytest.approx(roc_auc_score(labels, both))
        assert curve["detected"][0] == pytest.approx((positive.p_values <= ALPHA).double().mean())
        assert curve["false"][0] == pytest.approx((negative.p_values <= ALPHA).double().mean())
        assert curve["detected"][1] <= curve["detected"][0] <= curve["detected"][2]
    assert (own["name"], control["name"]) == ("monitor", "Mahalanobis")


def test_calibration_is_the_share_of_clean_requests_at_each_level(monitor, clean):
    found = data_of(monitor, clean=clean)["calibration"]
    p = clean.p_values.double().numpy()
    for promised, observed in zip(found["promised"], found["observed"], strict=True):
        assert observed == (p <= promised + 1e-6).mean()
    assert (np.diff(found["observed"]) >= 0).all()
    low, high = found["within"]
    assert sum(a <= seen <= b for a, seen, b in zip(low, found["observed"], high, strict=True)) > 30


def log_of(path, bank, p_values):
    with AuditLog(path) as log:
        for i, p in enumerate(p_values):
            row = RequestRow(f"r{i}", 1.7e9 + 60 * i, "m", bank, "h", 3, 0, 1.0, p, p <= ALPHA)
            log.request(row)
    return path


def test_a_logs_traffic_is_counted_without_what_another_bank_saw(monitor, tmp_path):
    digest = monitor.bank.digest()
    path = log_of(tmp_path / "a.sqlite", digest, [0.01, 0.02, 0.5, 1.0])
    with AuditLog(path) as log:
        log.request(RequestRow("x", 1.7e9, "m", "another", "h", 3, 0, 1.0, 0.01, True))
    data = data_of(monitor, log=path)
    assert data["calibration"]["requests"] == 4
    assert data["calibration"]["observed"] is None
    shares = dict(zip(data["calibration"]["promised"], data["calibration"]["traffic"], strict=True))
    assert shares[1.0] == 1
    assert shares[min(shares)] == 0.25
    assert sum(data["time"][0]["requests"]) == 4


def test_the_level_is_the_logs_unless_it_is_given(monitor):
    row = {"request": "r", "kind": "known perturbation", "at": 1.7e9, "trace": [1.0], "alpha": 0.2}
    assert data_of(monitor, log=[row], alpha=None)["alpha"] == 0.2
    assert data_of(monitor, log=[row])["alpha"] == ALPHA
    assert data_of(monitor, log=[row])["level"] == 0.2
    assert data_of(monitor_without_a_model(n=400), alpha=None)["alpha"] == 0.01


def test_unknown_kinds_of_a_hostile_log_are_one(monitor):
    rows = [
        {"request": str(i), "kind": f"<b>{i}", "at": 1.7e9, "trace": []} for i in range(500)
    ] + [{"request": "late", "kind": "drift", "at": math.nan, "trace": []}]
    data = data_of(monitor, log=rows)
    assert data["time"][0]["kinds"] == [["other", [500]]]


def test_what_cannot_be_compared_is_refused(monitor, clean, steered):
    view = ts.views.monitor_view
    with pytest.raises(SettingError, match="give clean= and steered="):
        view(monitor, clean=clean, controls={"x": (clean, steered)}, alpha=ALPHA)
    with pytest.raises(SettingError, match="score the same ones"):
        pair = {"x": (steered, steered)}
        view(monitor, clean=clean, steered=steered, controls=pair, alpha=ALPHA)
    with pytest.raises(SettingError, match="7 controls"):
        many = {str(i): (clean, steered) for i in range(7)}
        view(monitor, clean=clean, steered=steered, controls=many, alpha=ALPHA)
    with pytest.raises(SettingError, match="holds no request"):
        names = [field.name for field in dataclasses.fields(clean)]
        none = dataclasses.replace(clean, **{name: getattr(clean, name)[:0] for name in names})
        view(monitor, clean=none, alpha=ALPHA)
    with pytest.raises(SettingError, match="expected alerts"):
        view(monitor, log=[{"score": 1.0}], alpha=ALPHA)
    with pytest.raises(SettingError, match="cannot be had"):
        view(monitor, alpha=0.0001)


def test_a_report_has_the_monitors_page_and_refuses_another_banks(monitor):
    page = ts.report(monitor.bank, monitor=monitor_without_a_model(n=400))
    assert [section["name"] for section in page.overview["sections"]] == ["map", "monitor"]
    with pytest.raises(SettingError, match="of another bank"):
        ts.report(monitor.bank[:2], monitor=monitor)


def test_the_view_is_small_however_many_requests_there_are(monitor, clean, steered):
    def many(scores, times):
        names = [field.name for field in dataclasses.fields(scores)]
        repeated = {n: torch.cat([getattr(scores, n)] * times) for n in names}
        return dataclasses.replace(scores, **repeated)

    view = ts.views.monitor_view(
        monitor, clean=many(clean, 100), steered=many(steered, 100), alpha=ALPHA
    )
    assert len(view.html()) - len(ts.views.monitor_view(monitor, alpha=ALPHA).html()) < 60_000
    assert "clean: " in repr(view)
