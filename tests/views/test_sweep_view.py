"""A sweep as a view: random vectors beside the bank's, categories, and how many rows."""

import math

import pytest
import tiny_sweep

import tl_steer as ts


@pytest.fixture(scope="module")
def swept():
    return tiny_sweep.run()


def quantity(data, name):
    return next(each for each in data["quantities"] if each["name"] == name)


def test_the_random_vectors_medians_are_those_of_the_sweep(swept):
    data = ts.views.sweep_view(swept).data
    names = ("prevalence", "consistency", "systematicness")
    for name, median in zip(names, swept.of_random(), strict=True):
        assert quantity(data, name)["random"] == median
    assert quantity(data, "superiority")["random"] == 0.5
    assert quantity(data, "effect")["random"] is None
    assert "(random vectors: " in repr(ts.views.sweep_view(swept))


def test_without_random_vectors_there_is_no_median():
    data = ts.views.sweep_view(tiny_sweep.run(n_random=0)).data
    assert {each["random"] for each in data["quantities"]} == {None}


def test_intervals_are_the_evidences(swept):
    data = ts.views.sweep_view(swept).data
    for row, found in enumerate(swept.evidence()):
        low_high = [found.prevalence.value, found.prevalence.low, found.prevalence.high]
        assert quantity(data, "prevalence")["values"][row] == low_high


def test_it_says_what_verdicts_rest_on(swept):
    assert ts.views.sweep_view(swept).data["rests_on"] == swept.metrics[0] == "kl"
    assert {row["metric"] for row in swept.rows()} == {"kl"}
    assert {row["metric"] for row in swept.rows("flip")} == {"flip"}
    assert ts.views.sweep_view(swept.rows()).data["rests_on"] == "kl"
    assert ts.views.sweep_view([{"vector": 0, "x": 1.0}]).data["rests_on"] == ""


def test_texts_of_a_few_values_are_categories():
    rows = [
        {"vector": i, "label": str(i), "reason": "a b"[i % 2 :], "x": 1.0 * i}
        | {"verdict": ("systematic", "one-off")[i % 2], "same": "s", "id": f"r{i}"}
        for i in range(20)
    ]
    (category,) = ts.views.sweep_view(rows).data["categories"]
    assert category["name"] == "verdict"
    assert category["values"][:3] == ["systematic", "one-off", "systematic"]


def test_of_many_rows_the_largest_are_kept_in_their_order():
    rows = [{"vector": i, "x": float((i * 7919) % 1000)} for i in range(1000)]
    rows[0]["x"] = math.nan
    rows[0], rows[1] = rows[1], rows[0]
    data = ts.views.sweep_view(rows).data
    assert (len(data["vectors"]), data["left_out"]) == (500, 500)
    kept = [int(vector) for vector in data["vectors"]]
    largest = sorted((row for row in rows if row["x"] == row["x"]), key=lambda row: -row["x"])
    places = {row["vector"]: place for place, row in enumerate(rows)}
    assert set(kept) == {row["vector"] for row in largest[:500]}
    assert [places[vector] for vector in kept] == sorted(places[vector] for vector in kept)
