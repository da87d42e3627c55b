"""A bounded part of `torture_live.py`, and that it finds what is wrong."""

from types import SimpleNamespace

import pytest
import torture_live as torture
from conftest import HAS_BRIDGE

from tl_steer.monitoring.calibration import Calibration


def failures(*rows):
    return [row for row in rows if row.failures]


def test_requests_that_come_again_raise_no_more_alarms_than_asked_for():
    assert failures(*torture.ties(range(20), chunks=(1, 8))) == []


def test_without_tolerance_of_rounding_they_would(monkeypatch):
    monkeypatch.setattr(Calibration, "raised", lambda self, name: getattr(self, name))
    assert failures(*torture.ties(range(20), chunks=(8,)))


def test_streams_that_have_not_moved_raise_no_more_drift_alarms_than_asked_for():
    assert failures(*torture.drift(60)) == []


def test_verdicts_are_the_same_live_and_offline_however_requests_are_batched():
    row = torture.alike([0], torture.WAYS[:1])
    assert (row.failures, row.cases) == (0, 480)


@pytest.mark.parametrize("way", range(len(torture.WAYS)))
def test_a_broken_activation_is_told_wherever_it_is(way):
    assert torture.broken([torture.WAYS[way]]).failures == 0


def test_and_is_not_where_a_nan_is_compared_away(monkeypatch):
    blind = SimpleNamespace(isfinite=lambda number: True)
    monkeypatch.setattr("tl_steer.monitoring.running.math", blind)
    assert torture.broken(torture.WAYS[:1]).failures > 0


@pytest.mark.skipif(not HAS_BRIDGE, reason="generates with a bridge")
def test_threads_lose_nothing():
    assert torture.threads(3, n=2).failures == 0


def test_a_changed_monitor_file_is_refused_or_works_to_the_end():
    assert torture.files(7, 60).failures == 0


@pytest.mark.skipif(not HAS_BRIDGE, reason="generates with a bridge")
def test_memory_stays_as_it_is():
    assert torture.memory(500).failures == 0
