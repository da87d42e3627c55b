"""Where kinds of hook points are in transformers' own modules, said by hand.

For each family a module of the block, whether its input or its output is meant, and which of its
columns, where one map makes queries, keys and values at once. No TransformerLens is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from families import HEADS, D
from torch import Tensor

ONE = D // HEADS  # the width of a head
Columns = Callable[[str], list[int]]


@dataclass(frozen=True)
class Place:
    """A module's input or output; `columns` of it, in the order that the hook point has them in."""

    module: str
    before: bool = False
    columns: tuple[int, ...] | None = None

    def hook(self, block: Any, function: Callable[[Tensor], Tensor]) -> Any:
        """Put what `function` gives in the place; returns what takes it off."""
        module = block.get_submodule(self.module if hasattr(block, _first(self)) else _FORMERLY)

        def edited(whole: Tensor) -> Tensor:
            if self.columns is None:
                return function(whole)
            out, at = whole.clone(), torch.tensor(self.columns)
            out[..., at] = function(whole[..., at])
            return out

        if self.before:
            return module.register_forward_pre_hook(lambda _m, args: (edited(args[0]), *args[1:]))

        def leaving(_module: Any, _args: Any, out: Any) -> Any:
            whole = edited(out[0] if isinstance(out, tuple) else out)
            return (whole, *out[1:]) if isinstance(out, tuple) else whole

        return module.register_forward_hook(leaving)


# What transformers called Mixtral's experts before they were `mlp`.
_FORMERLY = "block_sparse_moe"


def _first(place: Place) -> str:
    return place.module.split(".")[0]


def _run(start: int, n: int) -> tuple[int, ...]:
    return tuple(range(start, start + n))


def _by_head(part: int) -> tuple[int, ...]:
    """[head (q k v) one]: GPT-NeoX, BLOOM, Falcon with ALiBi."""
    return tuple(c for h in range(HEADS) for c in _run((3 * h + part) * ONE, ONE))


def _attention(q: Place, k: Place, v: Place, o: str, out: str) -> dict[str, Place]:
    return {
        "attn.hook_q": q,
        "attn.hook_k": k,
        "attn.hook_v": v,
        "attn.hook_z": Place(o, before=True),
        "hook_attn_out": Place(out),
    }


def _apart(name: str, o: str, out: str | None = None) -> dict[str, Place]:
    q, k, v = (Place(f"{name}.{part}_proj") for part in "qkv")
    return _attention(q, k, v, f"{name}.{o}", out or name)


def _joint(name: str, joint: str, o: str, columns: Any) -> dict[str, Place]:
    q, k, v = (Place(f"{name}.{joint}", columns=each) for each in columns)
    return _attention(q, k, v, f"{name}.{o}", name)


def _mlp(first: str | Place, last: str, out: str = "mlp") -> dict[str, Place]:
    return {
        "mlp.hook_pre": first if isinstance(first, Place) else Place(first),
        "mlp.hook_post": Place(last, before=True),
        "hook_mlp_out": Place(out),
    }


_THIRDS = [_run(i * D, D) for i in range(3)]
_PER_HEAD = [_by_head(i) for i in range(3)]
_GATED = _mlp("mlp.gate_proj", "mlp.down_proj")
_LLAMA = _apart("self_attn", "o_proj") | _GATED
_NEOX = _joint("attention", "query_key_value", "dense", _PER_HEAD) | _mlp(
    "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"
)
_POST_NORMS = {
    "hook_attn_out": Place("post_attention_layernorm"),
    "hook_mlp_out": Place("post_feedforward_layernorm"),
}

# By family: the block's list, and the places in a block.
PLACES: dict[str, tuple[str, dict[str, Place]]] = {
    "llama": ("model.layers", _LLAMA),
    "mistral": ("model.layers", _LLAMA),
    "qwen2": ("model.layers", _LLAMA),
    "qwen3": ("model.layers", _LLAMA),  # queries and keys in front of their norms
    "gemma2": ("model.layers", _LLAMA | _POST_NORMS),
    "olmo2": ("model.layers", _LLAMA | _POST_NORMS),
    "gpt2": (
        "transformer.h",
        _joint("attn", "c_attn", "c_proj", _THIRDS) | _mlp("mlp.c_fc", "mlp.c_proj"),
    ),
    "gptj": (
        "transformer.h",
        _apart("attn", "out_proj") | _mlp("mlp.fc_in", "mlp.fc_out"),
    ),
    "neox": ("gpt_neox.layers", _NEOX),
    "neox-serial": ("gpt_neox.layers", _NEOX),
    "phi": (
        "model.layers",
        _apart("self_attn", "dense") | _mlp("mlp.fc1", "mlp.fc2"),
    ),
    "phi3": (
        "model.layers",
        _joint("self_attn", "qkv_proj", "o_proj", _THIRDS)
        | _mlp(Place("mlp.gate_up_proj", columns=_run(0, 40)), "mlp.down_proj"),
    ),
    "opt": (  # which reads prompts and tokens in one axis here
        "model.decoder.layers",
        _apart("self_attn", "out_proj") | _mlp("fc1", "fc2", "fc2"),
    ),
    "bloom": (
        "transformer.h",
        _joint("self_attention", "query_key_value", "dense", _PER_HEAD)
        | _mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
    "falcon": (
        "transformer.h",
        _joint(
            "self_attention",
            "query_key_value",
            "dense",
            [_run(0, D), _run(D, ONE), _run(D + ONE, ONE)],
        )
        | _mlp("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
    "mixtral": ("model.layers", _apart("self_attn", "o_proj") | {"hook_mlp_out": Place("mlp")}),
}
# Points that have no heads of their own to choose from.
KINDS = tuple(_LLAMA)
HEADED = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")


def plain_logits(
    module: Any, family: str, layer: int, kind: str, edit: Callable[[Tensor], Tensor], ids: Tensor
) -> Tensor:
    """Log-probabilities of transformers' own model under an edit at that place of that block."""
    blocks, places = PLACES[family]
    handle = places[kind].hook(module.get_submodule(blocks)[layer], edit)
    try:
        with torch.no_grad():
            logits: Tensor = module(input_ids=ids).logits
    finally:
        handle.remove()
    return logits.float().log_softmax(dim=-1)
