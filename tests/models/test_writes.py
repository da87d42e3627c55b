"""The maps by which a block writes are those that the model computes with."""

import pytest
import torch
from conftest import PROMPTS
from linear import LinearHost

import tl_steer as ts
from tl_steer.errors import ModelError
from tl_steer.models.state import frozen
from tl_steer.models.writes import PARTS, writing_map, written_by

POINTS = {"attn": ("attn.hook_z", "hook_attn_out"), "mlp": ("mlp.hook_post", "hook_mlp_out")}


@pytest.mark.parametrize("part", PARTS)
def test_what_a_part_writes_is_its_input_times_its_map(model, part):
    """Differences between tokens, which biases do not reach."""
    if "gemma2" in model.cfg.model_name:
        pytest.skip("a norm stands between the map and the stream")
    reads, writes = (f"blocks.2.{name}" for name in POINTS[part])
    ids = ts.tokenize(model, PROMPTS[:1]).ids
    with frozen(model), torch.no_grad(), ts.capturing(model, [reads, writes]) as seen:
        model(ids, return_type=None)
    x, y = (seen[name][0].flatten(1).diff(dim=0) for name in (reads, writes))
    torch.testing.assert_close(x @ writing_map(model, 2, part), y, atol=1e-5, rtol=1e-4)


def test_a_block_writes_first_by_attention_and_then_by_its_mlp():
    assert written_by("attn") < written_by("mlp")


def test_a_model_without_such_maps_is_refused_by_the_name_that_was_looked_for():
    host = LinearHost([torch.eye(4)])
    with pytest.raises(ModelError, match=r"blocks\.0\.mlp\.W_out of linear cannot be read.*none"):
        writing_map(host, 0, "mlp")


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (torch.zeros(4, 4, dtype=torch.int8), "packed or quantised"),
        (torch.zeros(4), r"shape \(4,\)"),
        (torch.zeros(4, 5), r"shape \(4, 5\)"),
    ],
)
def test_weights_that_are_no_plain_numbers_are_refused(weights, told):
    host = LinearHost([torch.eye(4)])
    host.blocks[0].mlp = torch.nn.Module()
    host.blocks[0].mlp.W_out = weights
    with pytest.raises(ModelError, match=told):
        writing_map(host, 0, "mlp")


def test_experts_stand_side_by_side():
    host, experts = LinearHost([torch.eye(4)]), torch.arange(24.0).view(2, 3, 4)
    host.blocks[0].mlp = torch.nn.Module()
    host.blocks[0].mlp.W_out = experts
    assert torch.equal(writing_map(host, 0, "mlp"), experts.view(6, 4))


def test_the_map_is_the_models_own_and_keeps_no_graph(one):
    assert not writing_map(one, 0, "mlp").requires_grad
