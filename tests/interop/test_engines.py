"""Vectors for engines that do not install here, by their own type definitions, restated."""

import base64
import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import LLAMAS, PROMPTS, make
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from plain_hf import steered_by_hand, steered_by_us, two_blocks
from pydantic import BaseModel, ConfigDict

import tl_steer as ts
from tl_steer.errors import BankFileError, SettingError
from tl_steer.hook_points import EVERYWHERE, GENERATED, LAST_THREE, PROMPT, Positions
from tl_steer.interop.easysteer import clause

WIDTH = 24
zstandard = pytest.importorskip("zstandard")


@pytest.fixture(scope="module")
def model():
    return make(LLAMAS[0])


@pytest.fixture(scope="module")
def bank(model):
    return ts.elicit(model, PROMPTS[:1], source=1, target=2, n=3, radius=2.0)


@pytest.fixture(scope="module")
def both(model, bank):
    return two_blocks(model, bank.vectors)


def written(bank: Any, to: str) -> Any:
    return ts.interop.FORMATS[to].write(bank, None)


def read(content: bytes, tmp_path: Path) -> ts.interop.Directions:
    (tmp_path / "v.json").write_bytes(content)
    return ts.interop.read(tmp_path / "v.json", format="vllm-lens")


# vllm-lens


class SteeringVector(BaseModel):
    """vllm-lens 1.3.0, `vllm_lens/_helpers/types.py`: its fields, their types and defaults."""

    activations: dict[str, Any]
    layer_indices: list[int]
    scale: float = 1.0
    norm_match: bool = False
    position_indices: list[int] | None = None

    def layers(self) -> dict[int, torch.Tensor]:
        """`deserialize_tensor` and the two-dimensional half of `_apply_steering`."""
        held = self.activations
        assert held.get("compression") is None
        numbers = np.frombuffer(base64.b64decode(held["data"]), np.dtype(held["dtype"]))
        rows = torch.from_numpy(numbers.reshape(held["shape"]).copy())
        assert rows.dim() == 2
        assert len(rows) == len(self.layer_indices)
        assert not self.norm_match
        assert self.position_indices is None
        return {k: row * self.scale for k, row in zip(self.layer_indices, rows, strict=True)}


def test_what_vllm_lens_adds_is_what_our_hooks_add(model, bank, both):
    for one in (bank[1], both[1]):
        (held,) = json.loads(written(one, "vllm-lens"))
        layers = SteeringVector.model_validate(held).layers()
        expected = steered_by_us(model, one)
        torch.testing.assert_close(steered_by_hand(layers), expected, rtol=1e-5, atol=1e-5)


def test_a_vllm_lens_file_is_what_its_type_dumps_again(bank):
    content = json.loads(written(bank[0] * 3, "vllm-lens"))
    assert [SteeringVector.model_validate(v).model_dump(mode="json") for v in content] == content


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(width=32, min_value=-(2.0**90), max_value=2.0**90), min_size=WIDTH))
def test_any_numbers_come_back_bit_for_bit(bank, both, tmp_path, numbers):
    row = torch.tensor(numbers[:WIDTH])[None]
    found = read(written(replace(bank[0], vectors=row), "vllm-lens"), tmp_path)
    assert torch.equal(found.layers[1], row)
    pair = torch.cat([row, -row], dim=1)
    found = read(written(replace(both[0], vectors=pair), "vllm-lens"), tmp_path)
    assert torch.equal(found.layers[1], row)
    assert torch.equal(found.layers[2], -row)


def packed(rows: torch.Tensor, **said: Any) -> dict[str, Any]:
    """As vllm-lens itself packs a tensor."""
    plain = rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows
    content = zstandard.ZstdCompressor(level=1).compress(plain.numpy().tobytes())
    return {
        "data": base64.b64encode(content).decode(),
        "dtype": str(plain.numpy().dtype),
        "original_dtype": str(rows.dtype),
        "shape": list(rows.shape),
        "compression": "zstd",
    } | said


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_what_vllm_lens_packs_itself_is_read_and_added_up(dtype, tmp_path):
    rows = torch.linspace(-2, 2, 2 * WIDTH).reshape(2, WIDTH).to(dtype)
    vectors = [
        {"activations": packed(rows), "layer_indices": [2, 0], "scale": 0.5},
        {"activations": packed(rows[:1]), "layer_indices": [0]},
    ]
    found = read(json.dumps(vectors).encode(), tmp_path).layers
    torch.testing.assert_close(found[2], rows[:1].float() / 2)
    torch.testing.assert_close(found[0], rows[1:].float() / 2 + rows[:1].float())


ROWS = torch.ones(1, WIDTH)
BOMB = base64.b64encode(zstandard.ZstdCompressor().compress(bytes(1 << 24))).decode()
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 24))


@pytest.mark.parametrize(
    "wrong",
    [
        {"activations": packed(ROWS, shape=[1, 1 << 40])},
        {"activations": packed(ROWS, shape=[1, 25])},
        {"activations": packed(ROWS, shape=[])},
        {"activations": packed(ROWS, shape=[-1, WIDTH])},
        {"activations": packed(ROWS, shape=[True, WIDTH])},
        {"activations": packed(ROWS, data=BOMB)},
        {"activations": packed(ROWS, data=base64.b64encode(UNSIZED).decode())},
        {"activations": packed(ROWS, data="")},
        {"activations": packed(ROWS, data="!")},
        {"activations": packed(ROWS, data=packed(ROWS)["data"][:-8])},
        {"activations": packed(ROWS, compression="gzip")},
        {"activations": packed(ROWS, original_dtype="torch.int64")},
        {"activations": packed(ROWS * torch.nan)},
        {"activations": packed(ROWS[None])},
        {"activations": packed(ROWS), "position_indices": [0]},
        {"activations": packed(ROWS), "norm_match": True},
        {"activations": packed(ROWS), "scale": float("inf")},
        {"activations": packed(ROWS), "scale": 1e300},
        {"activations": packed(ROWS), "layer_indices": [0, 1]},
        {"activations": packed(ROWS), "layer_indices": [-1]},
        {"activations": packed(ROWS), "layer_indices": [1.0]},
        {"activations": packed(torch.ones(2, WIDTH)), "layer_indices": [1, 1]},
        {"activations": packed(ROWS), "hook": {"cloudpickle": "gASV"}},
        {"activations": [1.0]},
        {},
    ],
    ids=lambda wrong: ",".join(sorted(wrong))[:40],
)
def test_a_vllm_lens_file_that_is_wrong_is_one_error(wrong, tmp_path):
    with pytest.raises(BankFileError, match=r"v\.json"):
        read(json.dumps([{"layer_indices": [1], **wrong}]).encode(), tmp_path)


def test_vectors_of_different_widths_are_not_spread_over_each_other(tmp_path):
    several = [{"activations": packed(torch.ones(1, n)), "layer_indices": [1]} for n in (1, 4)]
    with pytest.raises(BankFileError, match="different widths"):
        read(json.dumps(several).encode(), tmp_path)


def test_a_frame_that_says_another_size_is_not_inflated(tmp_path):
    vector = {"activations": packed(ROWS, data=BOMB), "layer_indices": [1]}
    with pytest.raises(BankFileError, match="is not what is in it"):
        read(json.dumps([vector]).encode(), tmp_path)


def test_many_small_frames_do_not_add_up_to_a_large_memory(tmp_path):
    frame = packed(torch.zeros(1, 1 << 24))
    vectors = [{"activations": frame, "layer_indices": [layer]} for layer in range(5)]
    with pytest.raises(BankFileError, match="more than 256 MB"):
        read(json.dumps(vectors).encode(), tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_stands_in_a_vllm_lens_file_it_is_vectors_or_one_error(tmp_path, data):
    vector = {"activations": packed(ROWS), "layer_indices": [1], "scale": 1.0}
    place = data.draw(st.sampled_from([vector, vector["activations"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    content = json.dumps([vector]).encode()
    content = content[: data.draw(st.sampled_from([len(content), len(content) // 2]))]
    try:
        found = read(content, tmp_path)
    except BankFileError:
        return
    assert all(rows.isfinite().all() for rows in found.layers.values())


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_stands_in_an_svec_file_it_is_vectors_or_one_error(tmp_path, data):
    rows = data.draw(JSON | st.just([[1.0, 2.0]]))
    held = {"model_type": "llama", "directions": data.draw(st.just({"3": rows}) | JSON)}
    (tmp_path / "v.svec").write_text(json.dumps(held))
    try:
        found = ts.interop.read(tmp_path / "v.svec", format="svec")
    except BankFileError:
        return
    assert len(found) == 1


def test_a_vllm_lens_file_without_its_packer_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    content = json.dumps([{"activations": packed(ROWS), "layer_indices": [1]}]).encode()
    with pytest.raises(SettingError, match="zstandard"):
        read(content, tmp_path)


# AISteer360, whose reader takes several rows for tokens


def test_rows_that_its_reader_would_put_on_tokens_are_no_vectors(tmp_path):
    held = {"model_type": "llama", "directions": {"1": [[1.0, 2.0], [3.0, 4.0]]}}
    (tmp_path / "v.svec").write_text(json.dumps(held))
    with pytest.raises(BankFileError, match="2 rows"):
        ts.interop.read(tmp_path / "v.svec", format="svec")
    heads = held | {"directions": {"1": [[1.0, 2.0]]}, "num_heads": 1, "head_dim": 2}
    (tmp_path / "v.svec").write_text(json.dumps(heads))
    with pytest.raises(BankFileError, match="heads"):
        ts.interop.read(tmp_path / "v.svec", format="svec")


def test_what_aisteer_saves_beside_the_vectors_and_a_plain_row_are_read(tmp_path):
    held = {"model_type": "llama", "directions": {"1": [1.0, 2.0]}, "explained_variances": {"1": 1}}
    (tmp_path / "v.svec").write_text(json.dumps(held))
    found = ts.interop.read(tmp_path / "v.svec", format="svec")
    assert found.layers[1].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("to", ["svec", "vllm-lens", "easysteer"])
def test_tools_that_know_one_vector_are_not_given_three(bank, tmp_path, to):
    with pytest.raises(SettingError, match=r"holds 3 vectors.*choose it"):
        ts.interop.export(bank, tmp_path / "v", to=to)


def test_vectors_of_several_blocks_come_back_from_every_format_that_is_read(both, tmp_path):
    for name, format in ts.interop.FORMATS.items():
        if format.read is None or name == "peft":  # which needs a model; see test_peft.py
            continue
        found = ts.interop.read(ts.interop.export(both[1], tmp_path / name, to=name), format=name)
        assert sorted(found.layers) == [1, 2]
        torch.testing.assert_close(found.layers[2], found.layers[1] / -2)


# EasySteer


class SelectSpec(BaseModel):
    """EasySteer's vLLM, `vllm/steer_vectors/api.py`: the fields of a clause."""

    model_config = ConfigDict(extra="forbid")
    prompt: Literal["all"] | None = None
    generation: Literal["all"] | None = None
    prompt_positions: list[int] | None = None
    prompt_window: tuple[int, int | None] | None = None
    exclude_prompt_positions: list[int] | None = None
    exclude_prompt_window: tuple[int, int | None] | None = None

    def chosen(self, length: int, behind: int) -> list[bool]:
        """`collect_positions_apply_spec`: of a prompt, and of what is generated behind it."""

        def inside(window: tuple[int, int | None], place: int) -> bool:
            low, high = (x + length if x is not None and x < 0 else x for x in window)
            return low <= place < (length if high is None else high)

        prompt = [
            (self.prompt == "all" or bool(self.prompt_window and inside(self.prompt_window, i)))
            and not (self.exclude_prompt_window and inside(self.exclude_prompt_window, i))
            for i in range(length)
        ]
        return prompt + [self.generation == "all"] * behind


class VectorSpec(BaseModel):
    """The same, of one vector."""

    model_config = ConfigDict(extra="forbid")
    data: dict[str, Any]
    algorithm: Literal["direct"] = "direct"
    scale: float = 1.0
    layers: list[int] | None = None
    normalize: bool = False
    apply: SelectSpec


class SteeringSpec(BaseModel):
    model_config = ConfigDict(extra="forbid")
    vectors: list[VectorSpec]
    conflict: Literal["priority", "sequential", "error"] = "priority"


def materialized(wire: dict[str, Any]) -> dict[int, torch.Tensor]:
    """`validate_wire` and `materialize` for directions, and the hash of `to_wire`."""
    assert set(wire) == {"version", "kind", "tensors", "extra", "sha256"}
    assert (wire["version"], wire["kind"]) == (1, "direction")
    own, found = hashlib.sha256(b"direction:1"), {}
    for name in sorted(wire["tensors"]):
        held = wire["tensors"][name]
        row = np.frombuffer(base64.b64decode(held["data"]), np.float32).reshape(held["shape"])
        for part in (name.encode(), str(row.shape).encode(), row.tobytes()):
            own.update(part)
        found[int(name.removeprefix("layer."))] = torch.from_numpy(row.copy())
    assert own.hexdigest() == wire["sha256"]
    return found


def test_what_easysteer_adds_is_what_our_hooks_add(model, bank, both):
    for one in (bank[1], both[1]):
        spec = SteeringSpec.model_validate_json(written(one, "easysteer"))
        layers = materialized(spec.vectors[0].data)
        expected = steered_by_us(model, one)
        torch.testing.assert_close(steered_by_hand(layers), expected, rtol=1e-5, atol=1e-5)


@given(
    st.builds(
        Positions,
        last=st.none() | st.integers(0, 6),
        bos=st.booleans(),
        generated=st.booleans(),
        start=st.integers(0, 5),
    ),
    st.integers(1, 8),
    st.integers(0, 4),
    st.booleans(),
)
def test_easysteer_steers_the_tokens_that_our_hooks_steer(positions, length, behind, has_bos):
    try:
        spec = SelectSpec.model_validate(clause(positions))
    except SettingError:
        assume(False)
    place = torch.arange(length + behind)[None]
    ours = positions.along(place < length, place >= length, torch.tensor([has_bos]))
    assert spec.chosen(length, behind) == ours[0].tolist()


@pytest.mark.parametrize(
    ("positions", "said"),
    [
        (EVERYWHERE, {"prompt": "all", "generation": "all"}),
        (PROMPT, {"prompt": "all"}),
        (GENERATED, {"generation": "all"}),
        (Positions(last=3), {"prompt_window": [-3, None], "generation": "all"}),
    ],
)
def test_the_tokens_travel_to_easysteer(bank, positions, said):
    content = json.loads(written(replace(bank[0], positions=positions), "easysteer"))
    assert content["vectors"][0]["apply"] == said


@pytest.mark.parametrize(
    "positions",
    [
        LAST_THREE,
        Positions(weights=(0.5,)),
        Positions(decay=0.5),
        Positions(start=2),
        Positions(last=0, generated=False),
    ],
    ids=str,
)
def test_tokens_that_easysteer_has_no_words_for_are_refused(bank, positions):
    with pytest.raises(SettingError, match="EasySteer cannot say"):
        written(replace(bank[0], positions=positions), "easysteer")


# hotwire


def loaded(content: bytes) -> torch.Tensor:
    """hotwire-vllm 0.1.2, `SteerState.load_store`."""
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    assert isinstance(found, torch.Tensor)
    return found


def test_what_hotwire_adds_is_what_our_hooks_add(model, bank, both):
    for many in (bank, both):
        files = written(many, "hotwire")
        requests = json.loads(files.pop("requests.json"))
        assert sorted(files) == [f"{name}.pt" for name in sorted(requests)]
        for k, (name, entries) in enumerate(requests.items()):
            matrix, layers = loaded(files[f"{name}.pt"]), {}
            for entry in entries:
                assert entry["id"] == name
                layers[entry["layer"]] = matrix[entry["layer"]] * entry["scale"]
            expected = steered_by_us(model, many[k])
            torch.testing.assert_close(steered_by_hand(layers), expected, rtol=1e-5, atol=1e-5)
            assert matrix[:1].eq(0).all()


def test_hotwire_files_are_called_by_the_numbers_of_the_vectors(bank, tmp_path):
    ts.interop.export(bank[[2, 0]], tmp_path / "bank", to="hotwire")
    assert sorted(path.name for path in (tmp_path / "bank").iterdir()) == [
        "requests.json",
        "vector-0.pt",
        "vector-2.pt",
    ]


def test_what_acts_on_generated_tokens_is_said_to_hotwire_and_the_rest_is_refused(bank):
    content = written(replace(bank, positions=GENERATED), "hotwire")["requests.json"]
    assert all(entry["decode_only"] for (entry,) in json.loads(content).values())
    with pytest.raises(SettingError, match="hotwire cannot say"):
        written(replace(bank, positions=PROMPT), "hotwire")
