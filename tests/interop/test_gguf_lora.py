"""Adapters as LoRAs of llama.cpp: its own package reads them, and they are changes of weights."""

import dataclasses

import gguf
import numpy as np
import pytest
import torch
from conftest import LLAMAS, PROMPTS, adapter_bank, bridge, make
from gguf import GGUFReader

import tl_steer as ts
from tl_steer.errors import ForeignModelError, NotFiniteError, SettingError
from tl_steer.hook_points import PROMPT
from tl_steer.interop.gguf_lora import ARCHITECTURES


@pytest.fixture(scope="module")
def model():
    return make(LLAMAS[0])


@pytest.fixture(scope="module")
def adapters(model):
    return adapter_bank(model, n=2, radius=3.0)


def value(reader, key):
    return reader.get_field(key).contents()


def lora_of(path):
    return {t.name: torch.tensor(np.array(t.data)) for t in GGUFReader(path).tensors}


def test_an_adapters_factors_make_its_change_of_weights(model, adapters, tmp_path):
    path = ts.interop.export(adapters[1], tmp_path / "a.gguf", to="gguf-lora", model=model)
    reader = GGUFReader(path)
    keys = ("general.architecture", "general.type", "adapter.type", "adapter.lora.alpha")
    assert [value(reader, key) for key in keys] == ["llama", "adapter", "lora", 1.0]
    held = lora_of(path)
    name = "blk.1.ffn_down.weight"
    assert set(held) == {f"{name}.lora_a", f"{name}.lora_b"}
    change = adapters.perturbation().weight_changes(1)[1]
    torch.testing.assert_close((held[f"{name}.lora_b"] @ held[f"{name}.lora_a"]).T, change)


@pytest.mark.parametrize("source", ["blocks.1.hook_mlp_out", "blocks.1.hook_attn_out"])
def test_a_lora_put_into_the_models_weights_does_what_the_adapter_does(source, tmp_path):
    """As llama.cpp has it: W + alpha / rank B A, for the tensor that its package calls so."""
    model = bridge("llama")
    adapters = ts.elicit(
        model,
        PROMPTS[:1],
        source=source,
        target=3,
        n=1,
        radius=2.0,
        perturbation=ts.elicitation.Adapters(rank=2, layers=(1, 2)),
        progress=False,
    )
    path = ts.interop.export(adapters, tmp_path / "a.gguf", to="gguf-lora", model=model)
    held, alpha = lora_of(path), value(GGUFReader(path), "adapter.lora.alpha")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 4)
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    with torch.no_grad(), ts.perturbing(model, adapters):
        steered = model(ids)
    changed = 0
    for name, weight in model.original_model.named_parameters():
        theirs = names.get_name(name.replace("._original_component", ""), (".weight",))
        if f"{theirs}.lora_a" in held:
            a, b = held[f"{theirs}.lora_a"], held[f"{theirs}.lora_b"]
            weight.data += alpha / len(a) * b @ a
            changed += 1
    assert changed == 2
    with torch.no_grad():
        torch.testing.assert_close(model(ids), steered, rtol=1e-4, atol=1e-5)


def test_what_no_lora_says_is_refused_with_the_reason(model, adapters, tmp_path):
    vector = ts.Bank.from_vectors(model, torch.ones(1, 24), prompts=PROMPTS[:1], source=1, target=2)

    def refused(bank, error, match, **settings):
        with pytest.raises(error, match=match):
            ts.interop.export(bank, tmp_path / "a.gguf", to="gguf-lora", **settings)

    one = adapters[0]
    refused(one, SettingError, "--model")
    refused(adapters, SettingError, r"2 vectors.*bank\[0\]", model=model)
    refused(vector, SettingError, r"control vector \(to='gguf'\)", model=model)
    early = dataclasses.replace(one, positions=PROMPT)
    refused(early, SettingError, "every token", model=model)
    odd = dataclasses.replace(one, vectors=one.vectors * float("inf"))
    refused(odd, NotFiniteError, "not finite", model=model)
    refused(one, ForeignModelError, "another|not this model", model=bridge("gpt2"))
    tall = bridge("llama", compatibility=True)
    heads = ts.elicit(
        tall,
        PROMPTS[:1],
        source="blocks.1.hook_attn_out",
        target=2,
        n=1,
        radius=2.0,
        perturbation=ts.elicitation.Adapters(),
        progress=False,
    )
    refused(heads, SettingError, "compatibility mode", model=tall)
    assert not list(tmp_path.iterdir())


def test_a_model_that_llama_cpp_has_under_no_name_is_refused(model, adapters, tmp_path):
    config = model.original_model.config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(config), "model_type", "mystery")
        with pytest.raises(SettingError, match="'mystery'"):
            ts.interop.export(adapters[0], tmp_path / "a.gguf", to="gguf-lora", model=model)


def test_every_architecture_that_is_named_is_llama_cpps_and_has_the_matrices():
    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    for theirs in ARCHITECTURES.values():
        has = gguf.MODEL_TENSORS[known[theirs]]
        assert {gguf.MODEL_TENSOR.FFN_DOWN, gguf.MODEL_TENSOR.ATTN_OUT} <= set(has), theirs
