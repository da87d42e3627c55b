"""llama.cpp itself takes what is exported, and does what our hooks do; where it is installed.

`make llamacpp` builds it, which takes some minutes.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from llamacpp import Comparison, adapter, correlation, learned
from llamacpp_engine import LlamaCpp

import tl_steer as ts
from tl_steer.perturbations import MultiSite

pytestmark = [
    pytest.mark.smollm2,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
    ),
]


@pytest.fixture(scope="module")
def both(smollm2, tmp_path_factory):
    return Comparison(smollm2, LlamaCpp(), tmp_path_factory.mktemp("llama_cpp"))


@pytest.fixture(scope="module")
def vector(smollm2):
    return learned(smollm2)


def test_without_steering_the_two_say_the_same(both):
    assert correlation(both.clean, both.ours_clean) > 0.999


def test_a_vector_acts_behind_its_block_and_not_behind_a_neighbour(both, vector):
    right, *neighbours = both.row("vector", vector, at=12, to="gguf").near
    assert right.logits > 0.995
    assert right.effect > 0.98
    for near in neighbours:
        assert near.logits < right.logits - 0.02
        assert near.effect < right.effect - 0.1


def test_an_edit_of_two_blocks_acts_behind_both(both, vector):
    def two(at):
        return MultiSite([vector(at), vector(at + 6)])

    right, *neighbours = both.row("vectors", two, at=12, to="gguf").near
    assert right.logits > 0.99
    assert all(near.logits < right.logits - 0.02 for near in neighbours)


@pytest.mark.parametrize("kind", ["hook_mlp_out", "hook_attn_out"])
def test_an_adapter_acts_in_its_block_and_not_in_a_neighbour(both, kind):
    make = adapter(both.model, kind, rank=2)
    right, *neighbours = both.row("adapter", make, at=12, to="gguf-lora").near
    assert right.effect > 0.9
    assert all(near.effect < right.effect - 0.2 for near in neighbours)


def test_adapters_are_swapped_and_scaled_by_request(both):
    makes = [adapter(both.model, "hook_mlp_out", rank=rank) for rank in (1, 2)]
    one, two = (both.export(make(12), to="gguf-lora") for make in makes)
    edits = [make(12) for make in makes]
    for loras, ours in (
        ({one: 1.0, two: 0.0}, edits[0]),
        ({one: 0.0, two: 1.0}, edits[1]),
        ({one: 0.5, two: 0.0}, edits[0].scaled(0.5)),
    ):
        theirs = both.theirs(loras=loras)
        assert both.near(theirs, ours).effect > 0.85
    torch.testing.assert_close(both.theirs(loras={one: 0.0, two: 0.0}), both.clean)


def test_llama_cpp_refuses_an_adapter_of_another_model_as_it_says(both, tmp_path):
    from conftest import adapter_bank, bridge

    tiny = bridge("llama")
    path = ts.interop.export(
        adapter_bank(tiny)[0], Path(tmp_path) / "a.gguf", to="gguf-lora", model=tiny
    )
    assert not both.engine.adapter(path)
