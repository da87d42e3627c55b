"""Where attention and MLP write is found in blocks that are built in unusual ways."""

import pytest
import torch
from conftest import PROMPTS, tokenizer
from families import FAMILIES

import tl_steer as ts

IDS = torch.tensor([[5, 9, 30, 7, 61], [8, 3, 70, 1, 44]])
# In parallel, in place on what the MLP gave, behind norms, of experts, with a part within a part.
BLOCKS = ("gptj", "falcon", "glm4", "mixtral", "gpt-neo")


@pytest.mark.parametrize("kind", ["hook_attn_out", "hook_mlp_out"])
@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_a_vector_is_added_where_a_part_writes(name, kind):
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        "tiny", hf_model=FAMILIES[name].make(), tokenizer=tokenizer()
    ).eval()
    vector = torch.randn(1, bridge.cfg.d_model, generator=torch.Generator().manual_seed(1))
    edit = ts.Additive(f"blocks.1.{kind}", vector)
    bank = ts.Bank.from_vectors(bridge, edit, prompts=PROMPTS[:1], target=3)
    plain = FAMILIES[name].make()
    with bank.install(plain):
        found = plain(IDS).logits
    with ts.perturbing(bridge, bank):
        there = bridge(IDS, attention_mask=torch.ones_like(IDS))
    torch.testing.assert_close(found, there, rtol=1e-5, atol=1e-5)
    assert float((found - plain(IDS).logits).abs().max()) > 0.01
