"""Requests that cannot be scored raise an alarm of their own, and stop nothing."""

import dataclasses
import json
import math

import pytest
import torch
from conftest import TARGET
from live_requests import monitor_on, watched
from state import snapshot
from tiny_monitor import (
    ALPHA,
    POS,
    WIDTH,
    answer,
    monitor_of,
    monitor_without_a_model,
    prompts,
    responses,
    synthetic,
)
from typer.testing import CliRunner

import tl_steer as ts
from tl_steer import cli
from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.monitoring.audit import read_log
from tl_steer.monitoring.detectors import detector as d, fitted
from tl_steer.monitoring.statistics.categories import Categories
from tl_steer.monitoring.statistics.drift import Drift
from tl_steer.monitoring.statistics.level import Level
from tl_steer.views.page import embedded

KIND = "could not be scored"
BROKEN = [math.nan, math.inf, -math.inf]


def breaking(model, value, step):
    """A hook that puts a value into every row's newest token of one forward pass."""
    passes = []

    def edit(activation, hook=None):
        passes.append(1)
        if len(passes) - 1 != step:
            return activation
        activation = activation.clone()
        activation[:, -1, 3] = value
        return activation

    return model.hooks(fwd_hooks=[(TARGET, edit)])


@pytest.mark.parametrize(("value", "step"), [(math.nan, 0), (1e20, 0), (math.inf, 1), (1e30, 3)])
def test_a_model_that_overflows_goes_on_and_is_told(llama, tmp_path, value, step):
    monitor, path, before = monitor_of(llama), tmp_path / "a.sqlite", snapshot(llama)
    ids, heard = llama.to_tokens("t5 t9 t30").repeat(2, 1), []
    with breaking(llama, value, step):
        with ts.watch(llama, monitor, alpha=ALPHA, log=path, on_alert=heard.append) as w:
            answer(llama, ids, stop_at_eos=False)
            answer(llama, ids, stop_at_eos=False)
    assert snapshot(llama) == before
    assert [alert.kind for alert in heard] == [KIND] * 2
    assert [[one.position for one in alert.tokens] for alert in w.alerts] == [[step]] * 2
    assert (w.requests, w.unscorable) == (4, 2)
    rows = list(read_log(path, "requests"))
    assert [bool(row["alerted"]) for row in rows] == [True, True, False, False]
    lowest = 1 / (1 + len(monitor.calibration))
    assert [row["p_value"] == pytest.approx(lowest) for row in rows] == [True, True, False, False]
    assert {row["request"] for row in read_log(path, kind=KIND)} == {r["id"] for r in rows[:2]}


def planted(value, place):
    """One request that a vector steers at token 2, and something broken."""
    traffic = synthetic(4, 9, response=3 * responses()[1], at=POS - 2)
    traffic.activations["here"][0, place, 3] = value
    return traffic


@pytest.mark.parametrize("chunk", [1, 8])
@pytest.mark.parametrize("value", BROKEN)
def test_what_is_broken_at_one_token_silences_no_other(value, chunk):
    """Steering is found at token 3 of a request whose first token is lost."""
    monitor = monitor_on(synthetic(200, 0), 0)
    session, rows = watched(monitor, planted(value, 1), alpha=0.05, chunk=chunk, batch=4)
    first = [alert.kind for alert in session.alerts if alert.request == rows.requests[0].id]
    assert sorted(first) == sorted([KIND, "known perturbation"])
    [steered] = [a for a in session.alerts if a.kind != KIND and a.request == rows.requests[0].id]
    assert steered.vector == 1
    assert math.isnan(steered.trace[1])
    assert 3 in [token.position for token in steered.tokens]


def test_without_its_prompt_s_end_a_request_has_no_category_and_is_not_scored_at_all():
    monitor = monitor_on(synthetic(200, 0), 0)
    session, rows = watched(monitor, planted(math.nan, 0), alpha=0.05, chunk=8, batch=4)
    kinds = [alert.kind for alert in session.alerts if alert.request == rows.requests[0].id]
    assert kinds == [KIND]
    assert math.isnan(rows.requests[0].statistic)
    assert len(rows.requests) == 4


def test_a_request_that_was_found_before_it_broke_keeps_its_alert():
    monitor = monitor_on(synthetic(200, 0), 0)
    session, rows = watched(monitor, planted(math.inf, POS - 1), alpha=0.05, chunk=1, batch=4)
    own = [alert for alert in session.alerts if alert.request == rows.requests[0].id]
    assert [alert.kind for alert in own] == ["known perturbation", KIND]
    assert all(map(math.isfinite, own[0].trace))


def test_tokens_that_break_after_the_first_revise_the_alert():
    monitor, traffic = monitor_on(synthetic(200, 0), 0), synthetic(1, 9, at=POS - 1)
    traffic.activations["here"][0, 1:, 3] = math.nan
    session, rows = watched(monitor, traffic, alpha=0.05, chunk=1, batch=1)
    assert [len(alert.tokens) for alert in session.alerts] == [POS - 1]
    assert [(row.revised, len(row.tokens)) for row in rows.alerts] == [(False, 1), (True, POS - 1)]


def test_tokens_behind_an_answer_s_end_may_be_broken():
    monitor, traffic = monitor_on(synthetic(200, 0), 0), synthetic(30, 9)
    expected, _ = watched(monitor, traffic, alpha=0.05, chunk=8, batch=30)
    at = traffic.activations["here"]
    at[~traffic.mask] = math.nan
    session, rows = watched(monitor, traffic, alpha=0.05, chunk=8, batch=30)
    assert session.unscorable == 0
    assert len(session.alerts) == len(expected.alerts)
    assert all(math.isfinite(row.statistic) for row in rows.requests)


def test_what_a_namer_cannot_rank_is_told_and_not_raised():
    def overflowing(reference):
        return fitted.Affine(torch.full((WIDTH, 3), 1e30), torch.tensor([math.inf, -math.inf, 0.0]))

    monitor = monitor_on(synthetic(200, 0), 0)
    phases = tuple(
        tuple(dataclasses.replace(p, namer=overflowing(None)) for p in both)
        for both in monitor.reader.phases
    )
    monitor = dataclasses.replace(
        monitor, reader=dataclasses.replace(monitor.reader, phases=phases)
    )
    traffic = planted(0.0, 1)
    traffic.activations["here"][:, 3] *= 1e9
    session, rows = watched(monitor, traffic, alpha=0.05, chunk=8, batch=4)
    assert [alert.kind for alert in session.alerts] == [KIND] * 4
    assert len(rows.requests) == 4


def test_the_drift_alarm_is_not_told_of_what_cannot_be_scored():
    monitor, traffic = monitor_on(synthetic(200, 0), 0), synthetic(40, 9, at=POS - 1)
    traffic.activations["here"][:, 1, 3] = math.nan
    session, _ = watched(monitor, traffic, alpha=0.05, chunk=8, batch=40, drift=0.01)
    assert session.unscorable == 40
    assert session.drift.capital == 1.0


@pytest.mark.parametrize("value", [*BROKEN, 1e20])
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("how", [{}, {"unknown": None}, {"unknown": None, "score": d.Search()}])
def test_offline_such_requests_are_refused_with_their_place(value, place, how):
    monitor, traffic = monitor_without_a_model(**how), synthetic(4, 9)
    traffic.activations["here"][2, place, 3] = value
    where = "the prompt's end" if place == 0 else f"token {place}"
    with pytest.raises(NotFiniteError, match=f"Request 2 could not be scored.*{where}"):
        monitor.score(traffic.activations, mask=traffic.mask)
    mask = traffic.mask.clone()
    mask[2, place] = False
    if place:
        assert len(monitor.score(traffic.activations, mask=mask)) == 4


def test_a_monitor_is_not_fitted_on_what_overflows():
    traffic = synthetic(200, 0)
    traffic.activations["here"][150, 0, 0] = math.nan
    with pytest.raises(NotFiniteError, match="Request 150"):
        monitor_without_a_model(traffic=traffic)
    with pytest.raises(SettingError, match="ends=nan"):
        monitor_without_a_model(ends=math.nan)


def test_the_log_the_view_and_the_command_line_show_such_alerts(one, tmp_path):
    path, monitor = tmp_path / "a.sqlite", monitor_of(one)
    with breaking(one, math.nan, 1):
        with ts.watch(one, monitor, alpha=ALPHA, log=path) as w:
            answer(one, one.to_tokens("t5 t9 t30"), stop_at_eos=False)
    for log in (path, w.alerts):
        view = ts.views.alerts_view(log)
        [group] = view.data["alerts"]
        assert group["kind"] == KIND
        assert [place for place, _ in group["fired"]] == [1]
        assert len(group["trace"]) == 2
        json.loads(embedded(view.data), parse_constant=lambda name: pytest.fail(name))
    done = CliRunner().invoke(cli.app, ["audit", str(path), "--json"], catch_exceptions=False)
    [row] = json.loads(done.output, parse_constant=lambda name: pytest.fail(name))
    assert row["kind"] == KIND
    assert row["statistic"] is None
    table = CliRunner().invoke(cli.app, ["audit", str(path), "--requests"], catch_exceptions=False)
    assert table.exit_code == 0


def test_there_is_nothing_to_replay(one):
    monitor = monitor_of(one)
    with breaking(one, math.nan, 1):
        with ts.watch(one, monitor, alpha=ALPHA) as w:
            answer(one, one.to_tokens("t5 t9 t30"), stop_at_eos=False)
    with pytest.raises(SettingError, match="nothing to replay"):
        w.alerts[0].replay(one)
    assert len(w.alerts[0].replay(one, prompts(1), vector=0, max_new_tokens=1).prompts) == 1


def test_nan_goes_through_no_comparison():
    """Of all that compares scores."""
    with pytest.raises(NotFiniteError):
        Drift([0.0, math.nan])
    with pytest.raises(SettingError, match="p-value"):
        Drift([0.0, 1.0]).bet(math.nan)
    with pytest.raises(NotFiniteError):
        Drift([0.0, 1.0])(math.nan)
    level = Level(0.0, 1.0, 0.1)
    assert bool(level.nats(torch.tensor([math.nan])).isnan())
    assert math.isfinite(level.nats_of(math.inf))
    far = torch.full((1, 3), 1e30)
    cosines = fitted.Cosines(torch.eye(3), torch.zeros(3), torch.eye(3))
    assert bool(cosines(far).isnan().all())
    assert len(Categories(torch.zeros(3), torch.eye(3), torch.arange(3)).of(far * math.nan)) == 1
