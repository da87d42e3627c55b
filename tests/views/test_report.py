"""Sweeps and alerts in views and in the report, as `sweep` and `watch` leave them."""

import dataclasses

import pytest
import torch
from conftest import PROMPTS, TARGET, bank_of
from packed import read
from tiny_monitor import ALPHA, HORIZON, answer, monitor_of, prompts

import tl_steer as ts
from tl_steer.errors import SettingError
from tl_steer.monitoring.audit import AuditLog, read_log, verify_log
from tl_steer.monitoring.detectors import MatchedFilter
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


@pytest.fixture
def partly(one, loud, tmp_path):
    """Alerts of a monitor of two vectors out of three, their log, that monitor, and the bank."""
    bank = bank_of(one)[[2, 0, 1]]
    for row in (0, 2):
        bank = ts.mark(bank, row, "dangerous")
    fitted = ts.Monitor.fit(
        one, bank, prompts(150), sites=[TARGET], score=MatchedFilter(), horizon=HORIZON,
        effect_prompts=8, ends=1, only="dangerous",
    )  # fmt: skip
    monitor, path = loud(fitted), tmp_path / "part.sqlite"
    for _ in range(2):
        with ts.watch(one, monitor, alpha=ALPHA, log=path, chunk=1) as w:
            answer(one, one.to_tokens(prompts(1, seed=21)[0]))
    verify_log(path)
    return w.alerts, path, monitor, bank


@pytest.mark.parametrize("given", ["the log", "alerts", "rows and the monitor"])
def test_alerts_of_a_monitor_of_some_vectors_are_their_banks(partly, given):
    alerts, path, monitor, bank = partly
    assert set(monitor.bank.numbers) < set(bank.numbers)
    shown = {
        "the log": {"alerts": path},
        "alerts": {"alerts": alerts},
        "rows and the monitor": {"alerts": list(read_log(path)), "monitor": monitor},
    }[given]
    page = ts.report(bank, **shown)
    assert page.notes == ()
    assert "alerts" in [section["name"] for section in page.overview["sections"]]
    sorted_otherwise = bank[[1, 2, 0]].label(1, "dangerous: x")
    assert ts.report(sorted_otherwise, **shown).notes == ()


@pytest.mark.parametrize("given", [0, 1], ids=["alerts", "the log"])
def test_alerts_of_some_vectors_of_another_bank_are_left_out_and_that_is_said(partly, given):
    *told, monitor, bank = partly
    for other in (
        dataclasses.replace(bank, vectors=bank.vectors * 1.001),
        bank[[0, 1]],  # without a vector that was watched for
        dataclasses.replace(bank, numbers=(0, 2, 1)),
    ):
        page = ts.report(other, alerts=told[given])
        assert any("that another bank raised are left out" in note for note in page.notes)
        assert not [name for name in page.blocks if name.endswith("alerts")]
        with pytest.raises(SettingError, match="of another bank"):
            ts.report(other, monitor=monitor)


@pytest.mark.parametrize("note", ["[0, 0]", "[7]", "{}", "[", "[true]", "[[]]"])
def test_a_log_that_lies_about_a_banks_vectors_changes_nothing(one, watched, tmp_path, note):
    bank = bank_of(one)
    path = tmp_path / "lies.sqlite"
    row = watched[0][0].row(bank="0123456789abcdef")
    with AuditLog(path) as log:
        log.alert(row)
        log._insert(log._db, "meta", {"name": f"bank {row.bank}", "value": note})
    page = ts.report(bank, alerts=path)
    assert page.notes == (
        "1 alerts that another bank raised are left out",
        "no alerts of this bank",
    )


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
