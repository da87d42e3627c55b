"""Vectors by the features of an autoencoder that they point along, beside random vectors."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PROMPTS, adapter_bank, bank_of

import tl_steer as ts
from tl_steer.errors import HookPointError, SettingError, ShapeError
from tl_steer.interop import decompose
from tl_steer.interop.decompose import _FEATURES

D = 24


@pytest.fixture
def bank(one):
    return bank_of(one)


def dictionary(n=200, seed=0):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * 3


def slow(bank, rows, most):
    """Feature by feature."""
    found = []
    for vector in bank.vectors.tolist():
        each = []
        for f, row in enumerate(rows.tolist()):
            dot = sum(a * b for a, b in zip(vector, row, strict=True))
            lengths = sum(a * a for a in vector) ** 0.5 * sum(b * b for b in row) ** 0.5
            each.append((dot / lengths, f))
        found.append(sorted(each, key=lambda pair: -abs(pair[0]))[:most])
    return found


def test_features_are_those_of_largest_cosine_either_way(bank):
    rows = dictionary()
    found = decompose(bank, rows)
    for v, expected in enumerate(slow(bank, rows, 5)):
        assert found.features[v] == tuple(f for _, f in expected)
        assert found.cosines[v] == pytest.approx([c for c, _ in expected], abs=1e-5)


def test_a_vector_that_is_a_feature_is_found_among_many_parts(bank):
    rows = dictionary(2 * _FEATURES + 7)
    for at in (0, _FEATURES - 1, _FEATURES, 2 * _FEATURES + 6):
        planted = rows.clone()
        planted[at] = -0.1 * bank.vectors[1]
        found = decompose(bank, planted, most=1)
        assert found.features[1] == (at,)
        assert found.cosines[1] == pytest.approx((-1,), abs=1e-5)


def test_chance_is_what_random_vectors_reach(bank):
    rows = dictionary()
    random = slow(ts.random_bank(bank, n=100, seed=3), rows, 1)
    found = decompose(bank, rows, seed=3)
    assert found.chance == pytest.approx([abs(c) for ((c, _),) in random], abs=1e-5)
    planted = decompose(bank, torch.cat([rows, bank.vectors[2:3]]), seed=3)
    yes = [row[2] for row in planted.table().rows]
    assert yes[2] == "yes"
    assert f"{max(planted.chance):.4g}" in planted.table().note


def test_an_autoencoder_and_arrays_of_any_make_say_the_same(bank, tmp_path):
    rows = dictionary()
    expected = decompose(bank, rows)
    rows.numpy().tofile(tmp_path / "w")
    mapped = np.memmap(tmp_path / "w", dtype="float32", mode="r", shape=(200, D))
    for given in (SimpleNamespace(W_dec=torch.nn.Parameter(rows)), rows.numpy(), mapped):
        assert decompose(bank, given) == expected
    half = decompose(bank, rows.bfloat16(), most=1)
    assert half.features == decompose(bank, rows, most=1).features


def test_names_stand_beside_features(bank):
    rows = dictionary(3)
    found = decompose(bank, rows, labels=["a", "b", "c"])
    assert found.names == tuple(tuple("abc"[f] for f in each) for each in found.features)
    sparse = decompose(bank, rows, labels={1: "b"})
    assert sparse.names[0] == tuple("b" if f == 1 else "" for f in sparse.features[0])
    assert "b " in sparse.table().rows[0][1]
    assert len(found.features[0]) == 3


def test_a_dead_feature_is_near_to_nothing(bank):
    rows = torch.cat([torch.zeros(1, D), dictionary(3)])
    assert decompose(bank, rows, most=4).features[0][-1] == 0


def test_memory_is_bounded_by_parts_and_not_by_the_dictionary(bank, tmp_path):
    n = 60 * _FEATURES  # 47 MB
    (tmp_path / "w").write_bytes(b"")
    mapped = np.memmap(tmp_path / "w", dtype="float32", mode="w+", shape=(n, D))
    mapped[-1] = bank.vectors[0]
    seen = []
    part = np.memmap.__getitem__

    class Watched:
        shape = mapped.shape

        def __getitem__(self, rows):
            seen.append(rows.stop - rows.start)
            return part(mapped, rows)

    tracemalloc.start()
    found = decompose(bank, Watched(), most=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.features[0] == (n - 1,)
    assert max(seen) == _FEATURES
    assert peak < 20e6


def test_what_is_no_dictionary_of_these_vectors_is_refused(one, bank):
    rows = dictionary()
    for given, kind, told in (
        (rows.T, ShapeError, "transpose"),
        (dictionary()[:, :-1], ShapeError, "23 wide"),
        (rows[0], ShapeError, "d_sae d_model"),
        (None, ShapeError, "d_sae d_model"),
        ("gpt2", ShapeError, "d_sae d_model"),
        (rows[:0], SettingError, "no features"),
        (np.array([["a"] * D]), ShapeError, "no numbers"),
        (rows.log(), SettingError, "NaN"),
    ):
        with pytest.raises(kind, match=told):
            decompose(bank, given)
    with pytest.raises(SettingError, match="3 labels for 200"):
        decompose(bank, rows, labels=["a"] * 3)
    with pytest.raises(SettingError, match="most=0"):
        decompose(bank, rows, most=0)
    with pytest.raises(SettingError, match="no vectors"):
        decompose(bank[[]], rows)
    with pytest.raises(SettingError, match="kind 'adapter'"):
        decompose(adapter_bank(one), rows)


def test_vectors_that_are_not_on_the_stream_are_refused(one):
    inside = ts.Bank.from_vectors(
        one, torch.ones(1, D), prompts=PROMPTS[:1], source="blocks.1.hook_mlp_out", target=3
    )
    with pytest.raises(HookPointError, match="residual stream"):
        decompose(inside, dictionary())
