"""Sweeps and alerts in views and in the report, as `sweep` and `watch` leave them."""

import dataclasses

import pytest
import torch
from conftest import PROMPTS, bank_of
from packed import read
from tiny_monitor import ALPHA, HORIZON, answer, monitor_of, prompts

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.monitoring.audit import AuditLog, read_log
from tl_steer.views.alerts import alert_rows


@pytest.fixture
def watched(one, loud, tmp_path):
    """Alerts of two requests, and the log they went to."""
    monitor = loud(monitor_of(one, ends=1))
    with ts.watch(one, monitor, alpha=ALPHA, log=tmp_path / "a.sqlite", chunk=1) as w:
        for prompt in prompts(2, seed=21):
            answer(one, one.to_tokens(prompt))
    return w.alerts, tmp_path / "a.sqlite", monitor


def test_a_view_of_a_sweep_shows_its_evidence(one):
    bank = bank_of(one)
    found = ts.sweep(one, bank, PROMPTS, n_random=2, progress=False)
    data = ts.views.sweep_view(found).data
    quantities = {q["name"]: q["values"] for q in data["quantities"]}
    for v, evidence in enumerate(found.evidence()):
        for name in ("effect", "prevalence", "consistency", "systematicness"):
            interval = getattr(evidence, name)
            expected = [interval.value, interval.low, interval.high]
            assert quantities[name][v] == pytest.approx(expected, nan_ok=True), name
    page = read(ts.report(bank, sweep=found), "v1.sweep_row")
    assert ["verdict", found.evidence()[1].verdict] in page["data"]
    with pytest.raises(SettingError, match="sweep of another bank"):
        ts.report(bank[:2], sweep=found)


def test_alerts_look_alike_from_the_session_and_from_its_log(watched):
    alerts, path, _ = watched
    data = ts.views.alerts_view(alerts).data
    assert ts.views.alerts_view(path).data == data
    assert ts.views.alerts_view(str(path)).data == data
    assert len(data["alerts"]) == len(alerts) == 2
    assert len(list(read_log(path))) > 2, "the log also has what was revised"
    for shown, alert in zip(data["alerts"], alerts, strict=True):
        assert shown["trace"] == pytest.approx(alert.trace, rel=1e-4)
        assert len(alert.trace) == HORIZON + 1
        assert max(alert.trace) == pytest.approx(alert.statistic, rel=1e-5)
        assert shown["fired"] == [[token.position, token.text] for token in alert.tokens]


def test_a_vectors_page_has_the_alerts_that_name_it(watched):
    alerts, path, monitor = watched
    page = ts.report(monitor.bank, alerts=path)
    for vector in monitor.bank.numbers:
        named = [alert.request for alert in alerts if alert.vector == vector]
        panel = read(page, f"v{vector}.alerts")
        shown = [one["request"] for one in panel["data"]["alerts"]] if panel else []
        assert shown == named


def test_alerts_of_another_bank_are_left_out_and_that_is_said(watched):
    _, path, monitor = watched
    other = dataclasses.replace(monitor.bank, vectors=2 * monitor.bank.vectors)
    page = ts.report(other, alerts=path)
    assert any("2 alerts that another bank raised" in note for note in page.notes)
    assert not [name for name in page.blocks if name.endswith("alerts")]
    assert "alerts" not in [s["name"] for s in page.overview["sections"]]
    renamed = monitor.bank.label(0, "dangerous: x")
    assert ts.report(renamed, alerts=path).notes == ()


def test_a_log_without_alerts_is_no_error_in_a_report(one, tmp_path):
    AuditLog(tmp_path / "empty.sqlite").close()
    assert alert_rows(tmp_path / "empty.sqlite") == []
    page = ts.report(bank_of(one), alerts=tmp_path / "empty.sqlite")
    assert page.notes == ("no alerts of this bank",)
    with pytest.raises(SettingError, match="No alerts"):
        ts.views.alerts_view(tmp_path / "empty.sqlite")


def test_a_digest_minds_what_a_vector_does_and_not_what_it_is_called(one):
    bank = bank_of(one)
    assert bank.label(0, "x").digest() == bank.digest()
    assert bank.with_score("s", torch.zeros(len(bank))).digest() == bank.digest()
    for other in (
        bank[:2],
        dataclasses.replace(bank, vectors=bank.vectors * 1.001),
        dataclasses.replace(bank, positions=ts.Positions(last=1)),
        dataclasses.replace(bank, source=bank.target),
    ):
        assert other.digest() != bank.digest()
