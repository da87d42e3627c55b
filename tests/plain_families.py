"""Tiny transformers models of eight families, and by which of their modules each is steered."""

import functools
from typing import Any

import torch
import transformers as hf
from conftest import CONTEXT, LAYERS, VOCAB, D, tokenizer
from torch import nn

_COMMON = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
_WIDE = {
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": CONTEXT,
}
_GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
_NAMED = {"architectures": ["Olmo2ForCausalLM"]}  # else the bridge does not know it
_OPT = {"ffn_dim": 40, "word_embed_proj_dim": D, "do_layer_norm_before": True}
CONFIGS = {
    "llama": lambda: hf.LlamaConfig(**_COMMON, **_WIDE, **_GROUPED),
    "gpt2": lambda: hf.GPT2Config(
        **_COMMON, n_embd=D, n_layer=LAYERS, n_head=3, n_positions=CONTEXT
    ),
    "neox": lambda: hf.GPTNeoXConfig(**_COMMON, **_WIDE, rotary_pct=0.5),
    "gemma2": lambda: hf.Gemma2Config(
        **_COMMON, **_WIDE, **_GROUPED, sliding_window=CONTEXT, query_pre_attn_scalar=8
    ),
    "qwen3": lambda: hf.Qwen3Config(**_COMMON, **_WIDE, **_GROUPED),
    "opt": lambda: hf.OPTConfig(**_COMMON, **_WIDE, **_OPT),
    "phi3": lambda: hf.Phi3Config(**_COMMON, **_WIDE, num_key_value_heads=1),
    "olmo2": lambda: hf.Olmo2Config(**_COMMON, **_WIDE, **_NAMED, num_key_value_heads=3),
}
# The list of blocks; and in a block what attention and MLP write (behind a norm, where one
# follows), and their last maps.
_LLAMA = ("model.layers", "self_attn", "mlp", "self_attn.o_proj", "mlp.down_proj")
_NORMED = (
    "model.layers",
    "post_attention_layernorm",
    "post_feedforward_layernorm",
    "self_attn.o_proj",
    "mlp.down_proj",
)
MODULES = {
    "llama": _LLAMA,
    "gpt2": ("transformer.h", "attn", "mlp", "attn.c_proj", "mlp.c_proj"),
    "neox": ("gpt_neox.layers", "attention", "mlp", "attention.dense", "mlp.dense_4h_to_h"),
    "gemma2": _NORMED,
    "qwen3": _LLAMA,
    "opt": ("model.decoder.layers", "self_attn", "fc2", "self_attn.out_proj", "fc2"),
    "phi3": _LLAMA,
    "olmo2": _NORMED,
}


def fresh(kind: str, *, seed: int = 0) -> Any:
    """A model with weights of its own: a bridge changes the modules of the one that it wraps."""
    config = CONFIGS[kind]()
    config.initializer_range = config.init_std = 0.15
    torch.manual_seed(seed)
    return hf.AutoModelForCausalLM.from_config(config).eval()


@functools.cache
def plain(kind: str) -> Any:
    """One that tests share, and leave as it was."""
    return fresh(kind)


@functools.cache
def bridged(kind: str) -> Any:
    """The same weights in TransformerLens."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        f"tiny-{kind}", hf_model=fresh(kind), tokenizer=tokenizer()
    ).eval()


def module_at(model: Any, kind: str, where: str) -> tuple[nn.Module, bool]:
    """The module at a hook point of block 1, and whether the point is in front of it."""
    layers, attention, mlp, o_proj, down = MODULES[kind]
    block = model.get_submodule(f"{layers}.1")
    names = {
        "hook_attn_out": attention,
        "hook_mlp_out": mlp,
        "attn.hook_z": o_proj,
        "mlp.hook_post": down,
    }
    inside = block.get_submodule(names[where]) if where in names else block
    return inside, where in ("hook_resid_pre", "attn.hook_z", "mlp.hook_post")
