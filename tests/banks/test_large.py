"""Banks of very many vectors: mapped and not read, written in pieces, compared in blocks. Small
sizes stand for large ones: the limits are moved."""

import dataclasses
import json
import math

import pytest
import torch
from conftest import PROMPTS, bank_of
from hypothesis import given, strategies as st
from safetensors.torch import load, save_file
from torch.nn.functional import normalize

import tl_steer as ts
from tl_steer.banks import bank as banks, file, sheet
from tl_steer.errors import (
    BankFileError,
    NotFiniteError,
    SettingError,
    ShapeError,
    TooLargeError,
)
from tl_steer.files import pieces
from tl_steer.files.tensors import TensorFile
from tl_steer.perturbations import neighbours
from tl_steer.perturbations.neighbours import distinct_rows, nearest_rows, unknown_rows


@pytest.fixture
def mapped(monkeypatch):
    """Every bank's file is a large one."""
    large = dataclasses.replace(file.BANK_FILE, most_read=0)
    monkeypatch.setattr(file, "BANK_FILE", large)
    monkeypatch.setattr(banks, "BANK_FILE", large)


def broken(path, name, value):
    """The file with another first number in a tensor; its header stays."""
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    at = 8 + length + entries[name]["data_offsets"][0]
    content[at : at + 4] = torch.tensor([value]).numpy().tobytes()
    path.write_bytes(bytes(content))
    return path


# --- files


def test_a_large_file_is_mapped_and_its_tensors_lie_in_the_mapping(one, tmp_path, mapped):
    path = bank_of(one).save(tmp_path / "bank.safetensors")
    found = ts.load_bank(path)
    spans = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in open("/proc/self/maps")  # noqa: SIM115
        if line.rstrip().endswith(str(path))
    ]
    for values in (found.vectors, found.responses, found.objective):
        assert any(first <= values.data_ptr() < last for first, last in spans)


def test_a_large_file_is_read_through_only_for_who_asks(one, tmp_path, mapped):
    bank = bank_of(one)
    path = broken(bank.save(tmp_path / "b"), "responses", 7.0)
    assert ts.load_bank(path).responses[0, 0] == 7
    with pytest.raises(BankFileError, match="checksum does not match"):
        ts.load_bank(path, verify=True)
    assert torch.equal(ts.load_bank(bank.save(path), verify=True).vectors, bank.vectors)


def test_a_small_file_is_read_through_whoever_opens_it(one, tmp_path):
    path = broken(bank_of(one).save(tmp_path / "b"), "responses", 7.0)
    with pytest.raises(BankFileError, match="checksum does not match"):
        ts.load_bank(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_in_a_large_file_is_heard_where_it_is_used(one, tmp_path, mapped, value):
    path = broken(bank_of(one).save(tmp_path / "b"), "vectors", value)
    found = ts.load_bank(path)
    uses = (
        lambda: ts.perturbing(one, found[0]).__enter__(),
        lambda: ts.generate(one, found, PROMPTS[:1], max_new_tokens=1),
        lambda: ts.sweep(one, found, PROMPTS[:1], n_random=0, progress=False),
        lambda: ts.Bank.from_vectors(one, found, prompts=PROMPTS[:1]),
        lambda: found[0].hooks(),
    )
    for use in uses:
        with pytest.raises(NotFiniteError):
            use()
    with pytest.raises(SettingError, match="not finite"):
        found.save(tmp_path / "again")
    with ts.perturbing(one, found[1]):
        pass
    with pytest.raises(BankFileError):
        ts.load_bank(path, verify=True)


@pytest.mark.parametrize(("rows", "shape"), [(5, (0,)), (9, (3,)), (0, (3,)), (7, (2, 2))])
@pytest.mark.parametrize("where", ["first", "last", "nowhere"])
def test_the_first_row_that_is_not_finite_is_found_in_any_piece(monkeypatch, rows, shape, where):
    monkeypatch.setattr(pieces, "_PIECE", 24)
    values = torch.ones(rows, *shape)
    row = {"first": 0, "last": rows - 1, "nowhere": None}[where]
    if values.numel() == 0:
        row = None
    if row is not None:
        values[row] = torch.inf
    assert pieces.odd_row(values) == row


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]


def test_a_file_in_pieces_is_the_one_that_its_own_library_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "_PIECE", 16)
    kind = TensorFile("thing", "thing", SettingError)
    tensors = {str(dtype): torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype) for dtype in DTYPES}
    tensors |= {
        "none": torch.ones(0, 3),
        "number": torch.tensor(2.5),
        "turned": torch.arange(8.0).view(2, 4).T,
        "every other": torch.arange(9.0)[::2],
        "ünï": torch.ones(3, dtype=torch.uint8),
    }
    kind.write(tmp_path / "t", {}, tensors)
    found = load((tmp_path / "t").read_bytes())
    assert found.keys() == tensors.keys()
    for name, values in tensors.items():
        assert found[name].dtype == values.dtype
        assert torch.equal(found[name], values)
    assert max(len(p) for values in tensors.values() for p in pieces.bytes_of(values)) <= 32


def test_a_dtype_that_no_file_holds_is_refused(tmp_path):
    with pytest.raises(SettingError, match="complex64"):
        TensorFile("thing", "thing", SettingError).write(
            tmp_path / "t", {}, {"a": torch.ones(1, dtype=torch.complex64)}
        )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_our_writer_did_not_write_is_read_as_well(one, tmp_path):
    bank = bank_of(one)
    path = bank.save(tmp_path / "ours")
    with ts.files.tensors.safe_open(path, framework="pt") as ours:
        save_file(load(path.read_bytes()), tmp_path / "theirs", metadata=ours.metadata())
    assert ts.load_bank(tmp_path / "theirs").digest() == bank.digest()


def test_saving_never_holds_a_large_tensor_twice(one, tmp_path, monkeypatch):
    """No call copies more than a piece of it."""
    monkeypatch.setattr(pieces, "_PIECE", 256)
    copied = []
    for name in ("clone", "contiguous", "cpu"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda t, *a, o=original: copied.append(t.nbytes) or o(t, *a)
        )
    bank_of(one).save(tmp_path / "b")
    assert 0 < max(copied) <= 256


def test_labels_of_many_are_written_only_where_one_says_something(one, tmp_path, monkeypatch):
    monkeypatch.setattr(file, "_SMALL", 2)
    bank = dataclasses.replace(bank_of(one), labels=())
    assert bank.contents()[0]["labels"] == []
    assert ts.load_bank(bank.save(tmp_path / "b")).labels == ("",) * 4
    said = bank.label(2, "here")
    assert ts.load_bank(said.save(tmp_path / "b")).labels == ("", "", "here", "")


def test_more_vectors_than_a_bank_can_have_are_refused(one, tmp_path, monkeypatch):
    path = bank_of(one).save(tmp_path / "b")
    monkeypatch.setattr(file, "_MOST", 3)
    with pytest.raises(BankFileError, match="more than the 3 vectors"):
        ts.load_bank(path)


def test_a_digest_is_that_of_all_vectors_at_once(one, monkeypatch):
    bank = bank_of(one)
    whole = bank.digest()
    monkeypatch.setattr(pieces, "_PIECE", 100)
    assert bank.digest() == whole


# --- choosing


def test_a_slice_of_half_a_bank_shares_its_memory_and_a_smaller_one_does_not(one):
    bank = bank_of(one).merge(bank_of(one))
    for name in ("vectors", "responses", "objective"):
        whole = getattr(bank, name).untyped_storage().data_ptr()
        assert getattr(bank[4:], name).untyped_storage().data_ptr() == whole
        assert getattr(bank[:3], name).untyped_storage().data_ptr() != whole
        assert getattr(bank[::2], name).untyped_storage().data_ptr() != whole


@given(st.slices(7))
def test_a_slice_is_what_a_list_has(part):
    values = torch.arange(7.0)
    rows = ts.banks.index.chosen_rows(part, 7)
    assert ts.banks.index.taken(values, rows).tolist() == values.tolist()[part]
    assert ts.banks.index.chosen(tuple(range(7)), rows) == tuple(range(7))[part]


def test_the_first_of_an_order_are_those_of_the_whole_order(one):
    bank = bank_of(one)
    keys = torch.tensor([1.0, math.nan, 3.0, 2.0])
    for descending in (True, False):
        whole = bank.sort(keys, descending=descending)
        assert whole[:2].numbers == bank.sort(keys, descending=descending, most=2).numbers
    assert len(bank.sort(most=9)) == 4


# --- neighbours


def kept_one_by_one(rows, threshold):
    """`distinct`, restated: one row after another, each with all that were kept."""
    unit = normalize(rows.double(), dim=1)
    kept = []
    for i, row in enumerate(unit):
        if all(abs(float(row @ unit[j])) < threshold for j in kept):
            kept.append(i)
    return kept


@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(1, 6), st.floats(0.05, 0.99))
def test_distinct_rows_are_those_that_one_by_one_would_keep(seed, n, d, threshold):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, d, generator=generator)
    rows = centres[torch.randint(5, (n,), generator=generator)]
    rows = rows + 0.3 * torch.randn(n, d, generator=generator) * (seed % 3)
    rows[: seed % 2] = 0
    with pytest.MonkeyPatch.context() as limits:
        limits.setattr(neighbours, "BLOCK", 1 + seed % 9)
        limits.setattr(neighbours, "_FEW", 1 + seed % 4)
        assert distinct_rows(rows, threshold) == kept_one_by_one(rows, threshold)


def test_a_cosine_that_single_precision_cannot_tell_from_the_threshold_is_told_in_double():
    angles = math.acos(0.9) + torch.linspace(-3e-8, 3e-8, 13, dtype=torch.float64)[1::2]
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    for row in rows:
        pair = torch.stack([torch.tensor([1.0, 0.0], dtype=torch.float64), row])
        with pytest.MonkeyPatch.context() as limits:
            limits.setattr(neighbours, "BLOCK", 1)
            assert distinct_rows(pair, 0.9) == ([0, 1] if row[0] < 0.9 else [0])


def test_what_is_nan_is_like_everything_but_the_first():
    rows = torch.eye(4)
    rows[2, 0] = torch.nan
    for block in (1, 2, 8):
        with pytest.MonkeyPatch.context() as limits:
            limits.setattr(neighbours, "BLOCK", block)
            assert distinct_rows(rows, 0.9) == [0, 1, 3]
            assert unknown_rows(rows).tolist() == [2]


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 9))
def test_the_nearest_is_that_of_all_pairs_whatever_the_block(seed, n, block):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 4, generator=generator)
    unit = normalize(rows.double(), dim=1)
    similar = (unit @ unit.T).abs().fill_diagonal_(-1.0)
    with pytest.MonkeyPatch.context() as limits:
        limits.setattr(neighbours, "BLOCK", block)
        where, value = nearest_rows(rows, n)
    if n == 1:
        assert (where.tolist(), value.tolist()) == ([-1], [0.0])
    else:
        assert where.tolist() == similar.argmax(dim=1).tolist()
        torch.testing.assert_close(value, similar.amax(dim=1))


def test_no_comparison_is_larger_than_a_block(one, monkeypatch):
    n = 50
    bank = dataclasses.replace(
        ts.random_bank(bank_of(one), n=n),
        responses=torch.randn(n, 24, generator=torch.Generator().manual_seed(0)),
    )
    monkeypatch.setattr(neighbours, "BLOCK", 8)
    sizes, times = [], torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: sizes.append((len(a), b.shape[1])) or times(a, b)
    )
    bank.distinct(), bank.nearest(), bank.like(bank[3])
    assert max(max(pair) for pair in sizes) == 8


def test_the_most_alike_of_a_bank_come_first_with_their_cosine(one):
    bank = dataclasses.replace(
        bank_of(one), responses=torch.cat([torch.eye(4), torch.zeros(4, 20)], dim=1)
    )
    asked = dataclasses.replace(
        bank[0], responses=torch.tensor([[0.0, 3.0, -4.0, 0.0] + [0.0] * 20])
    )
    found = bank.like(asked, most=3)
    assert found.numbers[:2] == (2, 1)
    assert found.scores["like"].tolist() == pytest.approx([0.8, 0.6, 0.0])
    assert len(bank.like(asked)) == 4
    assert bank.like(bank[3], most=1).numbers == (3,)


def test_what_was_never_measured_is_like_nothing_and_comes_last(one):
    bank = bank_of(one)
    unknown = dataclasses.replace(bank, responses=bank.responses.clone())
    unknown.responses[1] = torch.nan
    assert unknown.like(bank[1]).numbers[-1] == 1
    with pytest.raises(SettingError, match="of the other bank is unknown"):
        bank.like(unknown[1])
    with pytest.raises(ShapeError, match="holds 2"):
        bank.like(bank[:2])
    elsewhere = dataclasses.replace(bank[0], target=dataclasses.replace(bank.target, layer=0))
    with pytest.raises(SettingError, match="different target cannot be compared"):
        bank.like(elsewhere)


def test_all_cosines_of_too_many_vectors_are_refused(one):
    bank = bank_of(one)[0]
    n = 100_000
    wide = bank.vectors.expand(n, -1)
    many = ts.Bank(wide, wide, wide[:, 0], bank.source, bank.target, 1.0, 0.1, bank.provenance)
    with pytest.raises(TooLargeError, match="100000 vectors"):
        many.cosines()


def test_a_table_of_very_many_compares_nothing_and_looks_at_the_rows_shown(one, monkeypatch):
    bank = bank_of(one)
    monkeypatch.setattr(sheet, "_COMPARED", 3)
    monkeypatch.setattr(torch.Tensor, "__matmul__", None)
    shown = bank.table(most=2)
    assert shown.columns == ("#", "objective", "|response|", "label")
    assert len(shown.rows) == 2
    assert "2 more not shown" in shown.note
