"""Alerts as a view: what is kept of a log, how much of it, and what a hostile one may hold."""

import json

import pytest
from test_views import ALERTS, ATTACKS

import tl_steer as ts
from tl_steer.errors import SettingError


def alert(i, *, tokens=3, **more):
    row = {"request": f"r{i}", "kind": "known perturbation", "at": 1.7e9 + i, "vector": i % 4}
    row |= {"label": "", "p_value": 0.01, "statistic": 5.0, "threshold": 4.0, "alpha": 0.05}
    row |= {"trace": [0.123456789] * tokens, "tokens": [{"position": 1, "id": 7, "text": "x"}]}
    return row | more


def of(rows):
    return ts.views.alerts_view(rows).data


def test_what_fired_follows_from_the_threshold():
    data = of(ALERTS)
    assert data["alerts"] == []
    assert data["tokens"]["fired"] == [False] * 6 + [True] * 4 + [False]


def test_an_alert_keeps_its_numbers_and_the_texts_of_what_fired():
    (one,) = of([alert(2, label="rude", vector_p=0.5, explained=None)])["alerts"]
    assert (one["vector"], one["label"], one["at"]) == ("2", "rude", 1.7e9 + 2)
    assert (one["p_value"], one["statistic"], one["threshold"]) == (0.01, 5.0, 4.0)
    assert one["explained"] is None
    assert one["fired"] == [[1, "x"]]
    assert one["trace"] == [0.12346] * 3


def test_of_every_request_and_kind_the_last_word_counts():
    rows = [alert(1), alert(2), alert(1, p_value=0.001), alert(1, kind="drift")]
    kept = of(rows)["alerts"]
    assert [(one["request"], one["kind"][:5], one["p_value"]) for one in kept] == [
        ("r1", "known", 0.001),
        ("r2", "known", 0.01),
        ("r1", "drift", 0.01),
    ]


def test_the_newest_are_kept_and_the_others_counted():
    data = of([alert(i) for i in range(6000)])
    assert len(data["alerts"]) == 5000
    assert data["left_out"] == 1000
    assert data["alerts"][-1]["request"] == "r5999"


def test_long_alerts_leave_room_for_fewer_and_the_last_is_always_there():
    data = of([alert(i, tokens=4096) for i in range(120)])
    assert len(data["alerts"]) == 400_000 // 4096
    assert data["alerts"][-1]["request"] == "r119"
    whole = ts.views.alerts_view([alert(i, tokens=10**5) for i in range(3)])
    assert [len(one["trace"]) for one in whole.data["alerts"]] == [4096] * 3
    assert len(whole.html()) < 500_000


def test_hostile_alerts_are_cut_and_do_not_stop_the_view():
    wild = [
        alert(0, label="x" * 10**6, alternatives=[{"vector": 1, "score": 10**400}] * 50),
        alert(1, tokens=2) | {"tokens": [{"position": 10**300, "id": 1}, {"id": 2}]},
        {"trace": [float("nan"), None, float("inf"), "?"]},
    ]
    data = of(wild)
    assert len(data["alerts"][0]["label"]) == len("x" * 160 + "…(1,000,000)")
    assert len(data["alerts"][0]["others"]) == 8
    assert data["alerts"][1]["fired"][1] == [-1, "2"]
    assert data["alerts"][2]["trace"][1:] == [None, float("inf"), None]
    assert len(ts.views.alerts_view(wild).html()) < 300_000


def test_a_long_table_of_tokens_is_cut():
    data = of([{"score": float(i)} for i in range(5000)])
    assert (len(data["tokens"]["scores"]), data["left_out"]) == (4096, 904)


def test_an_empty_log_and_one_without_scores_say_so():
    with pytest.raises(SettingError, match="nothing to show"):
        ts.views.alerts_view([])
    with pytest.raises(SettingError, match="column 'score'"):
        ts.views.alerts_view([{"token": ATTACKS[0]}])


def test_a_terminal_gets_the_newest_three():
    said = repr(ts.views.alerts_view([alert(i, label=f"l{i}") for i in range(9)]))
    assert "9 alerts; 9 of 27 tokens fired" in said
    assert [f"(l{i})" in said for i in range(9)] == [False] * 6 + [True] * 3
    json.dumps(of([alert(1)]), allow_nan=False)
