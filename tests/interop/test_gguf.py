"""llama.cpp's files: written as its own package reads them; hostile ones are one error."""

import dataclasses
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import LLAMAS, PROMPTS, make
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from hypothesis import given, strategies as st
from test_docs import ROOT, execute, test_commands_parse as commands_parse

import tl_steer as ts
from tl_steer.errors import (
    BankFileError,
    HookPointError,
    ModelError,
    SettingError,
    SteerError,
)
from tl_steer.files.gguf import tensors_of
from tl_steer.models.gguf import refuse_damaged
from tl_steer.perturbations import Ablation, MultiSite

PAGE = "docs/interop/llama_cpp.md"
WIDTH = 6
KEYS = [("texts", ["x"] * 9), ("flags", [True])]


@pytest.fixture(scope="module")
def model():
    return make(LLAMAS[0])


@pytest.fixture(scope="module")
def bank(model):
    return ts.elicit(model, PROMPTS[:1], source=1, target=2, n=3, radius=2.0, progress=False)


def written(path, named, *, keys=(), alignment=32):
    """A file by llama.cpp's own package."""
    writer = GGUFWriter(path, "controlvector")
    writer.add_custom_alignment(alignment)
    for name, value in keys:
        writer.add_array(name, value)
    for name, values in named.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def row(seed=0, width=WIDTH, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=width).astype(dtype)


def value(reader, key):
    return reader.get_field(key).contents()


def test_llama_cpps_own_package_reads_what_is_written(model, bank, tmp_path):
    path = ts.interop.export(bank[2] * 2, tmp_path / "v.gguf", to="gguf", model=model)
    reader = GGUFReader(path)
    assert value(reader, "general.architecture") == "controlvector"
    assert value(reader, "controlvector.model_hint") == "llama"
    assert value(reader, "controlvector.layer_count") == 1
    (tensor,) = reader.tensors
    assert tensor.name == "direction.1"
    assert tensor.tensor_type == GGMLQuantizationType.F32
    np.testing.assert_array_equal(tensor.data, 2 * bank.vectors[2].numpy())


def test_an_edit_of_several_blocks_is_several_directions(model, bank, tmp_path):
    parts = [ts.Additive(2, bank.vectors[:1]), ts.Additive(1, bank.vectors[1:2])]
    two = ts.Bank.from_vectors(model, MultiSite(parts), prompts=PROMPTS[:1], target=3)
    path = ts.interop.export(two, tmp_path / "v.gguf", to="gguf")
    assert [t.name for t in GGUFReader(path).tensors] == ["direction.1", "direction.2"]
    back = ts.interop.read(path, format="gguf").bank(model, prompts=PROMPTS[:1], target=3)
    torch.testing.assert_close(back.responses, two.responses, rtol=1e-4, atol=1e-5)


def test_what_was_given_no_model_is_hinted_by_its_name(bank, tmp_path):
    path = ts.interop.export(bank[0], tmp_path / "v.gguf", to="gguf")
    assert value(GGUFReader(path), "controlvector.model_hint") == bank.provenance.model
    # As a file of a bank may have it.
    odd = dataclasses.replace(bank.provenance, model="\ud800")
    ts.interop.export(dataclasses.replace(bank[0], provenance=odd), tmp_path / "v.gguf", to="gguf")
    assert value(GGUFReader(path), "controlvector.model_hint") == "\\ud800"


def test_the_output_of_the_first_block_is_refused_with_the_way_round(model, bank, tmp_path):
    first = ts.Bank.from_vectors(model, bank.vectors[:1], prompts=PROMPTS[:1], source=0, target=3)
    with pytest.raises(HookPointError, match=r"blocks\.1\.hook_resid_post or later"):
        ts.interop.export(first, tmp_path / "v.gguf", to="gguf")


def test_several_vectors_are_refused_since_llama_cpp_would_add_all_at_once(bank, tmp_path):
    with pytest.raises(SettingError, match=r"3 vectors.*bank\[0\]"):
        ts.interop.export(bank, tmp_path / "v.gguf", to="gguf")
    assert not list(tmp_path.iterdir())


def test_files_of_other_tools_are_read_in_the_order_of_blocks(tmp_path):
    rows = {f"direction.{layer}": row(layer) for layer in (12, 3, 28)}
    path = written(tmp_path / "v.gguf", rows, keys=[("notes", ["a", "b"]), ("steps", [1, 2])])
    found = ts.interop.read(path, format="gguf")
    assert list(found.layers) == [3, 12, 28]
    for layer, held in found.layers.items():
        np.testing.assert_array_equal(held.numpy(), row(layer)[None])


@pytest.mark.parametrize("alignment", [32, 256])
def test_the_walk_finds_what_the_packages_reader_finds(alignment, tmp_path):
    named = {"a": row(), "b.weight": np.ones((3, 5), np.float16), "c": np.zeros((2, 2, 2), np.int8)}
    path = written(tmp_path / "m.gguf", named, keys=KEYS, alignment=alignment)
    for tensor in GGUFReader(path).tensors:
        found = tensors_of(path.read_bytes())[tensor.name]
        assert found.type == tensor.tensor_type
        assert list(found.shape) == tensor.shape.tolist()
        assert found.start == tensor.data_offset


def test_repeng_reads_and_writes_the_same_file(bank, tmp_path, monkeypatch):
    if not hasattr(np, "float_"):
        monkeypatch.setattr(np, "float_", np.float64, raising=False)
    repeng = pytest.importorskip("repeng")
    path = ts.interop.export(bank[2], tmp_path / "ours.gguf", to="gguf")
    theirs = repeng.ControlVector.import_gguf(path)
    np.testing.assert_array_equal(theirs.directions[1], bank.vectors[2].numpy())
    repeng.ControlVector("llama", {5: row(), 2: row(2)}).export_gguf(tmp_path / "theirs.gguf")
    assert list(ts.interop.read(tmp_path / "theirs.gguf", format="gguf").layers) == [2, 5]


REFUSED = {
    "direction.0": ({"direction.0": row()}, "direction.0"),
    "no direction": ({"blk.1.ffn_down.weight": row()}, "expected direction.1"),
    "no number": ({"direction.one": row()}, "no number of a block"),
    "a negative one": ({"direction.-1": row()}, "no number of a block"),
    "one block twice": ({"direction.1": row(), "direction.01": row()}, "block 1"),
    "half precision": ({"direction.1": row(dtype=np.float16)}, "expected float32"),
    "a matrix": ({"direction.1": np.ones((2, 3), np.float32)}, "one axis"),
    "two widths": ({"direction.1": row(), "direction.2": row(width=7)}, "expected one"),
    "NaN": ({"direction.1": np.array([1, np.nan], np.float32)}, "NaN or infinity"),
    "infinity": ({"direction.1": np.array([1, np.inf], np.float32)}, "NaN or infinity"),
    "nothing": ({}, "expected one"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_llama_cpp_would_refuse_is_refused_here_with_the_reason(what, tmp_path):
    named, reason = REFUSED[what]
    path = written(tmp_path / "v.gguf", named)
    with pytest.raises(BankFileError, match=reason):
        ts.interop.read(path, format="gguf")


def text(value):
    return struct.pack("<Q", len(value)) + value


def head(tensors=0, keys=0, *, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor(shape, *, name=b"direction.1", type=0, offset=0):
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", type, offset)


def key(name, type=0):
    return text(name) + struct.pack("<I", type)


def array(type, n):
    return key(b"k", 9) + struct.pack("<IQ", type, n)


ALIGNMENT = key(b"general.alignment", 4)
HOSTILE = {
    "empty": (b"", "does not begin"),
    "four bytes": (b"GGUF", "ends in the middle"),
    "another magic": (b"GGML" + head()[4:], "does not begin"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
    "a version to come": (head(version=4), "version 4"),
    "2^63 keys": (head(keys=1 << 63) + bytes(1000), "9223372036854775808 keys"),
    "2^63 tensors": (head(1 << 63) + bytes(1000), "9223372036854775808 tensors"),
    "keys beyond the end": (head(keys=1000) + key(b"k") + bytes(5), "ends in the middle"),
    "a text of 2^63": (head(keys=1) + struct.pack("<Q", 1 << 63), "ends in the middle"),
    "an array beyond the end": (head(keys=1) + array(0, 1 << 20), "ends in the middle"),
    "an array of 2^62 bytes": (head(keys=1) + array(0, 1 << 62), "values in one array"),
    "an array of 2^62 texts": (head(keys=1) + array(8, 1 << 62), "values in one array"),
    "five million bytes": (head(keys=1) + array(0, 5 << 20) + bytes(5 << 20), "in one array"),
    "an array of arrays": (head(keys=1) + array(9, 1) * 5000, "unknown type"),
    "an unknown type": (head(keys=1) + key(b"k", 99) + bytes(100), "unknown type"),
    "a key twice": (head(keys=2) + (key(b"k") + b"x") * 2, "key 'k' twice"),
    "a tensor twice": (head(2) + tensor([1]) * 2 + bytes(100), "there twice"),
    "no unicode": (head(1) + tensor([1], name=b"\xff\xfe") + bytes(100), "codec"),
    "alignment 0": (head(keys=1) + ALIGNMENT + struct.pack("<I", 0), "power of two"),
    "alignment 7": (head(keys=1) + ALIGNMENT + struct.pack("<I", 7), "power of two"),
    "alignment of text": (head(keys=1) + key(b"general.alignment", 8) + text(b""), "power of two"),
    "no values": (head(1) + tensor([4]), "ends in the middle"),
    "half of its values": (
        (head(1) + tensor([16])).ljust(96, b"\0") + bytes(32),
        "ends in the middle of 'direction.1'",
    ),
    "2^62 values": (head(1) + tensor([1 << 62]) + bytes(100), "longer than the file"),
    "no value": (head(1) + tensor([0]) + bytes(100), "one axis"),
    "no axis": (head(1) + tensor([]) + bytes(100), "one axis"),
    "five axes": (head(1) + tensor([1] * 5) + bytes(100), "5 axes"),
    "2^32 axes": (
        head(1) + text(b"direction.1") + struct.pack("<I", 0xFFFFFFFF) + bytes(100),
        "4294967295 axes",
    ),
    "values on each other": (
        head(9)
        + b"".join(tensor([1 << 18], name=b"direction.%d" % i) for i in range(1, 10))
        + bytes(1 << 20)
        + bytes(100),
        "longer than the file",
    ),
    "values before the file": (
        head(1) + tensor([4], offset=(1 << 64) - 64) + bytes(100),
        "ends in the middle of 'direction.1'",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_one_error_in_no_more_memory_than_it_has(what, tmp_path):
    content, reason = HOSTILE[what]
    (tmp_path / "v.gguf").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(BankFileError, match=reason):
        ts.interop.read(tmp_path / "v.gguf", format="gguf")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < len(content) + (1 << 20)


@pytest.mark.parametrize("what", ["empty", "2^63 keys", "an array of 2^62 bytes", "no unicode"])
def test_a_hostile_model_file_ends_before_the_packages_reader_begins(what, tmp_path):
    (tmp_path / "m.gguf").write_bytes(HOSTILE[what][0])
    with pytest.raises(ModelError, match="no whole GGUF file"):
        refuse_damaged(tmp_path / "m.gguf")


def test_a_missing_file_is_one_error(tmp_path):
    with pytest.raises(BankFileError, match="cannot be read"):
        ts.interop.read(tmp_path / "v.gguf", format="gguf")
    with pytest.raises(ModelError, match="cannot be read"):
        refuse_damaged(tmp_path / "v.gguf")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "v.gguf"
    rows = {"direction.3": row(3), "direction.12": row(12)}
    return written(path, rows, keys=[("texts", ["ab", "c"]), ("numbers", [1, 2, 3])]).read_bytes()


@given(data=st.data())
def test_mutated_bytes_are_refused_or_are_vectors(sound, data, tmp_path_factory):
    changed = bytearray(sound)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(changed)), st.integers(0, len(changed))))
    middle = data.draw(st.integers(0, cut))
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(changed[:middle] + data.draw(st.binary(max_size=8)) + changed[middle:cut])
    try:
        found = ts.interop.read(path, format="gguf")
    except BankFileError:
        return
    for held in found.layers.values():
        assert held.dtype == torch.float32
        assert held.shape[0] == 1
        assert bool(held.isfinite().all())
    assert all(0 < layer < 10_000 for layer in found.layers)
    assert len(found) == 1


def test_another_kind_is_no_control_vector(model, bank, tmp_path):
    ablated = ts.Bank.from_vectors(
        model, Ablation(1, bank.vectors[:1]), prompts=PROMPTS[:1], target=2
    )
    with pytest.raises(SteerError, match="'ablation'"):
        ts.interop.export(ablated, tmp_path / "v.gguf", to="gguf")


@pytest.mark.skipif(not (ROOT / PAGE).is_file(), reason="the documentation is not beside this test")
def test_the_recipe_runs_and_its_commands_parse(model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    bank = ts.elicit(model, PROMPTS[:1], source=1, target=2, n=5, radius=2.0, progress=False)
    given = {"ts": ts, "model": model, "bank": bank, "prompts": PROMPTS[:1]}
    found = execute(PAGE, given=given)
    torch.testing.assert_close(found["again"].vectors, bank.vectors[4:])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"reams.gguf", "adapter-0.gguf", "adapter-1.gguf"}
    commands_parse(PAGE)
