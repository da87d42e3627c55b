"""Banks are values; their files are whole or refused."""

import contextlib
import dataclasses
import json
import math
import os

import numpy as np
import pytest
import torch
from conftest import PROMPTS, SOURCE, TARGET, bank_of, make
from hypothesis import given, settings, strategies as st
from linear import LinearHost
from torch.nn.functional import normalize

import tl_steer as ts
from tl_steer.banks.bank import largest
from tl_steer.banks.provenance import Provenance
from tl_steer.errors import BankFileError, ForeignModelError, RowError, SettingError
from tl_steer.models.fingerprint import Fingerprint, fingerprint


def bank(n=5, *, seed=0, model="tiny", labels=()):
    generator = torch.Generator().manual_seed(seed)
    mark = Fingerprint(tuple(float(i) for i in range(48)), 6, 4, 31, "float32")
    return ts.Bank(
        vectors=2.5 * normalize(torch.randn(n, 6, generator=generator), dim=1),
        responses=torch.randn(n, 6, generator=generator),
        objective=torch.rand(n, generator=generator),
        source=ts.hook_points.Site("blocks.1.hook_resid_post", 1, "hook_resid_post", 6),
        target=ts.hook_points.Site("blocks.3.hook_resid_post", 3, "hook_resid_post", 6),
        radius=2.5,
        radius_share=0.2,
        provenance=Provenance(model=model, fingerprint=mark, method="power", seed=seed),
        labels=labels,
    )


def same(a, b):
    tensors = all(
        torch.equal(getattr(a, n), getattr(b, n)) for n in ("vectors", "responses", "objective")
    )
    values = ("source", "target", "radius", "radius_share", "provenance", "positions", "labels")
    return tensors and all(getattr(a, n) == getattr(b, n) for n in values)


def test_a_bank_comes_back_as_it_was_saved(tmp_path):
    before = bank(labels=("a", "b ünï", "<script>", "", "x" * 99))
    path = before.save(tmp_path / "deep" / "house.safetensors")
    assert same(ts.load_bank(path), before)
    assert [p.name for p in path.parent.iterdir()] == ["house.safetensors"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_and_never_half_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("banks") / "b.safetensors"
    content = bytearray(bank().save(path).read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:where]
    else:
        content[where] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    # One byte can turn 28.0 into 28e0, which is no damage.
    with contextlib.suppress(BankFileError):
        assert same(ts.load_bank(path), bank())


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b"\xff" * 8 + b"{}"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(BankFileError):
        ts.load_bank(tmp_path / "x.safetensors")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BankFileError, match=r"No bank at .*none"):
        ts.load_bank(tmp_path / "none")


def forged(path, change):
    """A file with a matching checksum and contents of the forger's choice."""
    from safetensors.torch import save_file

    from tl_steer.files.tensors import digest

    good = bank()
    meta, tensors = good.contents()
    change(meta, tensors)
    meta["sha256"] = digest(meta, tensors)
    save_file(tensors, path, metadata={"tl_steer": json.dumps(meta)})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, t: m.update(format=99), "bank format 99"),
        (lambda m, t: m.update(kind="virus"), "is not registered here"),
        (lambda m, t: m["source"].update(width=10**9), "rows of"),
        (lambda m, t: m["source"].update(kind="eval"), "no kind of hook point"),
        (lambda m, t: m.update(labels=["a"]), "label per vector"),
        (lambda m, t: m.update(provenance=7), "not a valid bank"),
        (lambda m, t: m["provenance"].update(extra=1), "not a valid bank"),
        (lambda m, t: t.update(responses=torch.ones(5, 2)), "target's width"),
        (lambda m, t: t.update(vectors=t["vectors"] * float("nan")), "not finite"),
        (lambda m, t: t.update(vectors=t["vectors"].long()), "must hold floats|not a valid bank"),
        (lambda m, t: t.update(objective=torch.ones(())), "not a valid bank"),
    ],
)
def test_forged_contents_are_refused(tmp_path, change, message):
    with pytest.raises(BankFileError, match=message):
        ts.load_bank(forged(tmp_path / "f.safetensors", change))


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = bank().save(tmp_path / "b.safetensors")
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        bank(seed=1).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["b.safetensors"]


def test_slices_are_banks():
    whole = bank(labels=tuple("abcde"))
    assert len(whole[4]) == 1
    assert torch.equal(whole[4].vectors, whole.vectors[4:5])
    assert same(whole[-1], whole[4])
    assert same(whole[1:3], whole[[1, 2]])
    assert same(whole[torch.tensor([False, True, True, False, False])], whole[1:3])
    assert whole[[3, 0]].labels == ("d", "a")
    assert [len(one) for one in whole] == [1] * 5
    for bad in (5, -6):
        with pytest.raises(IndexError, match="holds 5 vectors"):
            whole[bad]


def test_sorting_orders_everything_alike():
    ordered = bank(labels=tuple("abcde")).sort()
    assert ordered.objective.tolist() == sorted(ordered.objective.tolist(), reverse=True)
    original = bank(labels=tuple("abcde"))
    at = original.objective.argmax()
    assert ordered.labels[0] == original.labels[at]
    assert torch.equal(ordered.responses[0], original.responses[at])


def test_the_largest_vectors_keep_their_order_and_unmeasured_ones_come_last():
    objective = torch.tensor([2.0, math.nan, 5.0, 1.0, 4.0])
    some = dataclasses.replace(bank(), objective=objective)
    assert largest(some, 3) == [0, 2, 4]
    assert largest(some, 4) == [0, 2, 3, 4]
    assert largest(some, 9) == [0, 1, 2, 3, 4]


def test_near_duplicates_are_dropped_by_their_response():
    doubled = bank().merge(bank())
    assert len(doubled) == 10
    assert torch.equal(doubled.distinct().vectors, bank().distinct().vectors)


def test_merging_refuses_what_does_not_belong_together():
    other_target = dataclasses.replace(bank(), target=bank().source)
    with pytest.raises(SettingError, match="different target"):
        bank().merge(other_target)
    mark = dataclasses.replace(bank().provenance.fingerprint, d_vocab=7)
    foreign = dataclasses.replace(
        bank(), provenance=dataclasses.replace(bank().provenance, fingerprint=mark)
    )
    with pytest.raises(SettingError, match="different models"):
        bank().merge(foreign)


def test_a_label_makes_a_new_bank():
    before = bank()
    assert before.label(2, "french").labels[2] == "french"
    assert before.labels[2] == ""


def test_random_controls_have_the_same_radius_and_site():
    controls = ts.random_bank(bank(), n=3, seed=1)
    torch.testing.assert_close(controls.vectors.norm(dim=1), torch.full((3,), 2.5))
    assert controls.labels == ("random",) * 3
    assert all(math.isnan(x) for x in controls.objective.tolist())
    assert torch.equal(controls.vectors, ts.random_bank(bank(), n=3, seed=1).vectors)


def test_random_controls_of_a_merged_bank_are_as_long_as_its_vectors_row_by_row():
    longer = dataclasses.replace(bank(2), vectors=3 * bank(2).vectors, radius=7.5)
    merged = bank(3).merge(longer)
    lengths = ts.random_bank(merged, n=7).vectors.norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([2.5, 2.5, 2.5, 7.5, 7.5, 2.5, 2.5]))


def test_a_bank_is_a_table_in_a_terminal_and_in_a_notebook():
    shown = bank(labels=("<script>alert(1)</script>", "\x1b[31mred", "‮flip", "", "plain"))
    text, html = repr(shown), shown._repr_html_()
    assert "Bank of 5 steering vectors" in text
    assert "radius 2.5 = 0.200 of the median residual norm" in " ".join(text.split())
    assert "\x1b" not in text + html
    assert "‮" not in text + html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_long_banks_say_what_is_not_shown():
    assert "10 more not shown" in " ".join(repr(bank(30)).split())


FAST = {"source": SOURCE, "target": TARGET, "n": 2, "radius": 1.0, "progress": False}


def test_a_bank_is_refused_on_another_model(model):
    measured = ts.Positions(last=1, bos=False)
    found = ts.elicit(model, PROMPTS, **FAST, measured=measured)
    host = LinearHost([torch.eye(24)] * 4)
    for use in (
        lambda: ts.perturbing(host, found[0]).__enter__(),
        lambda: ts.generate(host, found, ["1 2"]),
    ):
        with pytest.raises(ForeignModelError, match=r"d_vocab 101, this one 31.*from_vectors"):
            use()


def test_changed_weights_make_another_model(one):
    found = ts.elicit(one, PROMPTS, **FAST, measured=ts.Positions(last=1, bos=False))
    weight = next(p for n, p in one.named_parameters() if "mlp" in n and p.ndim == 2)
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight += 0.05 * torch.randn_like(weight)
        with pytest.raises(ForeignModelError, match="other residual streams"):
            ts.perturbing(one, found[0]).__enter__()
        again = ts.Bank.from_vectors(one, found, prompts=PROMPTS)
        assert not torch.allclose(again.responses, found.responses)
        with ts.perturbing(one, again[0]):
            pass
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_the_fingerprint_does_not_see_hooks(model):
    clean = fingerprint(model)
    site = ts.models.resolve(model, SOURCE)
    edit = ts.Additive.random(site, 1, radius=9, generator=torch.Generator().manual_seed(0))
    with ts.perturbing(model, edit):
        assert fingerprint(model) == clean


def test_vectors_can_be_nested(llama):
    found = ts.elicit(llama, PROMPTS, **FAST, measured=ts.Positions(last=1, bos=False))
    with ts.perturbing(llama, found[0]), ts.perturbing(llama, found[1]):
        with torch.no_grad(), ts.capturing(llama, [SOURCE]) as seen:
            llama(ts.tokenize(llama, PROMPTS[:1]).ids)
    with torch.no_grad(), ts.capturing(llama, [SOURCE]) as clean:
        llama(ts.tokenize(llama, PROMPTS[:1]).ids)
    added = (seen[SOURCE] - clean[SOURCE])[0, 0]
    torch.testing.assert_close(added, found.vectors.sum(dim=0), atol=1e-5, rtol=1e-4)


def test_models_of_one_kind_share_a_fingerprint_across_modes():
    from conftest import KINDS

    pairs = [(f"bridge-{a}", f"compat-{a}") for a in ("llama", "gpt2")]
    pairs = [p for p in pairs if set(p) <= set(KINDS)]
    if not pairs:
        pytest.skip("this TransformerLens has no TransformerBridge")
    for raw, compatible in pairs:
        a, b = fingerprint(make(raw)).signature, fingerprint(make(compatible)).signature
        torch.testing.assert_close(torch.tensor(a), torch.tensor(b), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, [1]), (-1, [3]), (np.int64(2), [2]), (np.uint8(0), [0]), (torch.tensor(3), [3]),
        (np.array(1), [1]), (slice(None, None, -2), [3, 1]), (slice(1, None), [1, 2, 3]),
        (torch.tensor([1, 0], dtype=torch.uint8), [1, 0]), (np.array([True, False, True, True]),
        [0, 2, 3]), ([], []), ((2, -1), [2, 3]), (range(2), [0, 1]),
    ],
)  # fmt: skip
def test_vectors_are_chosen_by_any_whole_numbers(one, rows, expected):
    bank = bank_of(one)
    assert torch.equal(bank[rows].vectors, bank.vectors[expected])


@pytest.mark.parametrize(
    "rows", [4, -5, [0, 4], 1.5, "a", None, [0.5], [[0, 1]], [True], slice("a"), slice(0, 4, 0)]
)
def test_vectors_that_are_not_there_are_refused(one, rows):
    with pytest.raises(RowError, match=r"the bank holds 4 vectors|axes"):
        bank_of(one)[rows]
    assert issubclass(RowError, IndexError)


def long_bank(one, n):
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(n // 3, 24, generator=generator)
    near = few[torch.randint(len(few), (n,), generator=generator)]
    noise = torch.randn(n, 24, generator=generator)
    responses = near + 0.1 * noise
    responses[5] = 0.0
    return dataclasses.replace(
        ts.random_bank(bank_of(one), n=n), responses=responses, objective=torch.zeros(n)
    )


def test_the_nearest_and_the_distinct_of_a_long_bank_are_those_of_all_pairs(one):
    bank = long_bank(one, 2500)
    unit = torch.nn.functional.normalize(bank.responses.double(), dim=1)
    similar = (unit @ unit.T).abs()
    kept = []
    for row in range(len(bank)):
        if all(similar[row, kept] < 0.9):
            kept.append(row)
    assert torch.equal(bank.distinct().vectors, bank.vectors[kept])
    best = similar.fill_diagonal_(0.0).max(dim=1)
    near = bank.nearest()
    assert [i for i, _ in near] == best.indices.tolist()
    assert [round(c, 9) for _, c in near] == [round(c, 9) for c in best.values.tolist()]


def test_a_table_of_a_long_bank_compares_the_shown_rows_alone(one, monkeypatch):
    bank = long_bank(one, 2500)
    sizes = []
    times = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: sizes.append(len(a)) or times(a, b)
    )
    assert len(bank.table().rows) == 20
    assert sizes == [20]
