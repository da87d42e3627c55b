"""Arithmetic of banks, against that of their vectors; what it makes is unknown until measured."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LLAMAS, PROMPTS, SOURCE, adapter_bank, bank_of, make
from hypothesis import given, strategies as st
from test_values import bank

import tl_steer as ts
from tl_steer.errors import SettingError, ShapeError
from tl_steer.views import bank_map

FACTORS = st.floats(-8, 8, width=32)
ROWS = st.lists(st.integers(0, 4), min_size=1, max_size=4)


def unknown(found):
    values = torch.cat([found.responses.flatten(), found.objective])
    return bool(values.isnan().all()) and not found.scores


# --- what it makes


@given(FACTORS, FACTORS)
def test_banks_are_scaled_as_their_vectors_are(a, b):
    whole = bank()
    for found in (a * whole, whole * a, whole * np.float64(a), np.float64(a) * whole):
        assert found.vectors.equal(a * whole.vectors)
        assert unknown(found)
        assert (found.labels, found.numbers) == (whole.labels, whole.numbers)
        assert found.radius == pytest.approx(abs(a) * whole.radius)
        assert found.radius_share == pytest.approx(abs(a) * whole.radius_share)
    assert torch.allclose((b * (a * whole)).vectors, a * b * whole.vectors)
    assert (-whole).vectors.equal(-whole.vectors)


@given(ROWS, ROWS)
def test_banks_are_added_as_their_vectors_are_and_one_goes_with_many(left, right):
    a, b = bank()[left], bank(seed=1)[right]
    if len(left) != len(right) and 1 not in (len(left), len(right)):
        with pytest.raises(SettingError, match=f"{len(left)} and {len(right)} vectors"):
            a + b
        return
    found = a + b
    assert found.vectors.equal(a.vectors + b.vectors)
    assert torch.allclose(found.vectors, (b + a).vectors)
    assert (a - b).vectors.equal(a.vectors - b.vectors)
    assert unknown(found)
    assert found.numbers == tuple(range(len(found)))
    assert found.radius == pytest.approx(float(found.vectors.norm(dim=1).mean()), abs=1e-6)
    assert found.radius_share * a.radius == pytest.approx(a.radius_share * found.radius)


def test_banks_of_one_add_up():
    found = sum(bank())
    assert torch.allclose(found.vector, bank().vectors.sum(dim=0))
    assert found.labels == ("a + b + c + d + e",)


def test_a_sum_says_what_it_is_of():
    found = bank()[0] + bank()[3]
    assert found.labels == ("a + d",)
    assert found.provenance.notes[-1] == "sums of #0 and #3"
    assert (2 * bank()).provenance.notes[-1] == "times 2"
    assert (bank()[[1, 2]] + bank()[0]).labels == ("b + a", "c + a")


def test_the_pieces_of_a_bank():
    whole = bank()
    assert whole[3].vector.equal(whole.vectors[3])
    for index in (3, np.int64(3), torch.tensor(3), np.array(3), -2):
        assert whole[index].vector.equal(whole.vectors[3])
    assert [one.labels for one in whole] == [(label,) for label in "abcde"]
    assert len(whole) == 5
    for n in (0, 2):
        with pytest.raises(ShapeError, match=rf"a bank of one, and this holds {n}: bank\[0\]"):
            whole[:n].vector  # noqa: B018


def test_an_array_is_the_vectors_and_no_window_onto_them():
    whole = bank()
    found = np.asarray(whole)
    assert np.array_equal(found, whole.vectors.numpy())
    assert np.asarray(whole, dtype=np.float64).dtype == np.float64
    found[:] = 0
    assert float(whole.vectors.norm()) > 0


def test_cosines_are_those_of_vectors():
    whole = bank()
    expected = [[float(a @ b / a.norm() / b.norm()) for b in whole.vectors] for a in whole.vectors]
    assert torch.allclose(whole.cosines(), torch.tensor(expected), atol=1e-6)


def test_a_data_frame_has_a_row_for_every_vector(monkeypatch):
    whole = bank()[[3, 1]]
    frame = whole.to_pandas()
    assert list(frame.vector) == [3, 1]
    assert list(frame.label) == ["d", "b"]
    assert list(frame.objective) == whole.objective.tolist()
    assert list(frame.worth) == [3.0, 1.0]
    assert list(frame.response) == pytest.approx(whole.responses.norm(dim=1).tolist())
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(SettingError, match="pip install pandas"):
        whole.to_pandas()
    assert isinstance(frame, pd.DataFrame)


# --- what has no sum


@pytest.mark.parametrize(
    "by", [math.nan, math.inf, "2", None, True, torch.ones(5), np.ones(2), [1.0] * 5]
)
def test_only_one_finite_number_multiplies(by):
    with pytest.raises(SettingError, match="expected one finite number for all vectors"):
        bank() * by


@pytest.mark.parametrize("other", [1, "bank", None, torch.ones(6), [1.0]])
def test_only_banks_are_added(other):
    for done in (lambda: bank() + other, lambda: bank() - other, lambda: other + bank()):
        with pytest.raises(SettingError, match=r"have no sum: expected another bank.*from_vectors"):
            done()


def test_only_vectors_of_one_place_and_model_are_added():
    elsewhere = bank(positions=ts.Positions(last=1))
    with pytest.raises(SettingError, match="different positions cannot be added"):
        bank() + elsewhere
    own = bank().provenance
    mark = dataclasses.replace(own.fingerprint, d_vocab=99)
    with pytest.raises(SettingError, match=r"different models .* cannot be added"):
        bank() + bank(provenance=dataclasses.replace(own, fingerprint=mark))


def test_adapters_have_no_arithmetic(one):
    found = adapter_bank(one)
    for done in (lambda: -found, lambda: 2 * found, lambda: found[0] + found[1]):
        with pytest.raises(SettingError, match="cannot be added or multiplied"):
            done()


# --- what is unknown, in every verb


def test_tables_leave_out_what_is_unknown_and_nearest_looks_past_it():
    whole = bank(3).merge(2 * bank(2))
    found = whole.nearest()
    for (near, cosine), own in zip(found, bank(3).nearest(), strict=False):
        assert (near, pytest.approx(cosine)) == own
    assert all(near == -1 and math.isnan(cosine) for near, cosine in found[3:])
    assert [row[1:4] for row in whole.table().rows[3:]] == [("–", "–", "")] * 2
    alone = bank(1).merge(2 * bank(1)).nearest()
    assert alone[0] == (-1, 0.0)
    assert list(whole.sort().labels[-2:]) == ["a", "b"]


def test_what_compares_responses_says_that_one_is_unknown():
    with pytest.raises(SettingError, match=r"that of vector 3 is unknown\. Measure it"):
        bank(3).merge(2 * bank(2)).distinct()


def test_unknown_banks_go_through_every_verb(tmp_path):
    model = make(LLAMAS[0])
    found = bank_of(model)[[3, 1]] * 0.5
    again = ts.Bank.load(found.save(tmp_path / "b"))
    assert again.vectors.equal(found.vectors)
    assert unknown(again)
    assert again.numbers == (3, 1)
    assert bank_map(found).data["responses"] is None
    ranked = ts.rank(model, found, PROMPTS, by="response_norm")
    assert bool(ranked.scores["response_norm"].isfinite().all())
    swept = ts.sweep(model, found, PROMPTS, n_random=2, progress=False)
    assert [e.vector for e in swept.evidence()] == [3, 1]
    texts = ts.generate(model, found, PROMPTS[:1], max_new_tokens=2)
    page = ts.report(
        found, generations=texts, sweep=swept, inspections=[ts.inspect(model, found, PROMPTS[0])]
    )
    assert "<html" in page.html()
    clean = [f"t{i} t{i + 1} t{i + 2}" for i in range(3, 67)]
    monitor = ts.Monitor.fit(model, found, clean, horizon=3, effect_prompts=2)
    assert monitor.bank.numbers == (3, 1)
    measured = ts.Bank.from_vectors(model, found, prompts=PROMPTS)
    assert bool(measured.responses.isfinite().all())
    assert measured.source.name == SOURCE
