"""A LoRA folder of PEFT's, read without peft: its two files, with every name, shape and number
checked.

Formula: W ← W + (alpha / r) · B A, Hu et al. 2021 (arXiv 2106.09685), section 4.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load
from torch import Tensor

from tl_steer.files.jsons import from_text, real, whole
from tl_steer.files.read import read_bounded
from tl_steer.files.text import shorten

_PREFIX, _PAIR, _BIAS = "base_model.model.", ("A.weight", "B.weight"), "B.bias"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# What would make the change another than (alpha / r) B A.
_EXTRAS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "layer_replication")


@dataclass(frozen=True, eq=False)
class LoraFiles:
    """Changes of linear maps, by the maps' names in the transformers model.

    Attributes:
        scale: alpha / r.
        bias: what is added to the maps' outputs, times the scale; a folder has it for all, or none.
        transposed: whether the maps' weights are `[d_in d_out]`, as GPT-2's are.
    """

    scale: float
    down: dict[str, Float[Tensor, "rank d_in"]]
    up: dict[str, Float[Tensor, "d_out rank"]]
    bias: dict[str, Float[Tensor, " d_out"]]
    transposed: bool


def key_of(name: str, which: str) -> str:
    """What a folder calls a tensor: "A.weight", "B.weight" or "B.bias" of a map."""
    return f"{_PREFIX}{name}.lora_{which}"


def read_lora(folder: Path, *, most: int = 1 << 28) -> LoraFiles:
    """The changes in a folder, in float32. Only plain LoRA: no DoRA, no rank-stabilised scale, no
    rank of its own for some maps.

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: it is damaged, of another kind, or longer than `most` bytes.
    """
    try:
        config = dict(from_text(read_bounded(folder / "adapter_config.json", 1 << 20).decode()))
        _refuse_other_kinds(config)
        rank, scale = whole(config["r"], least=1), real(config["lora_alpha"]) / config["r"]
        found = _by_map(load(read_bounded(folder / "adapter_model.safetensors", most)))
        _refuse_shapes(found, rank)
    except (OSError, ValueError):
        raise
    except Exception as error:
        # The reader of safetensors has no error of its own for all that can be wrong in a file.
        raise ValueError(f"{type(error).__name__}: {error}") from error
    down, up = ({name: each[which] for name, each in found.items()} for which in _PAIR)
    bias = {name: each[_BIAS] for name, each in found.items() if _BIAS in each}
    return LoraFiles(scale, down, up, bias, bool(config.get("fan_in_fan_out")))


def _refuse_other_kinds(config: Mapping[str, Any]) -> None:
    extras = [key for key in _EXTRAS if config.get(key)]
    if config.get("peft_type") != "LORA" or extras:
        kind = shorten(str(config.get("peft_type")), 20)
        told = ", ".join(extras) or "no extras"
        raise ValueError(f"it is of kind {kind} with {told}; expected plain LORA")


def _by_map(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, values in tensors.items():
        name, _, which = key.removeprefix(_PREFIX).rpartition(".lora_")
        # A file may make names as long as it likes.
        if which not in (*_PAIR, _BIAS) or values.dtype not in _FLOATS:
            raise ValueError(f"it holds {shorten(key, 60)} ({values.dtype})")
        single = values.float()  # float64 may hold what this cannot
        if not bool(single.isfinite().all()):
            raise ValueError(f"{shorten(key, 60)} holds NaN or infinity")
        found.setdefault(name, {})[which] = single
    return found


def _refuse_shapes(found: Mapping[str, Mapping[str, Tensor]], rank: int) -> None:
    kinds = {frozenset(each) for each in found.values()}
    if kinds not in ({frozenset(_PAIR)}, {frozenset((*_PAIR, _BIAS))}):
        raise ValueError("its maps do not each have A and B, or A, B and a bias")
    for name, each in found.items():
        down, up, bias = each["A.weight"], each["B.weight"], each.get(_BIAS)
        shapes = down.ndim == up.ndim == 2 and len(down) == up.shape[1] == rank
        if not shapes or (bias is not None and bias.shape != up.shape[:1]):
            raise ValueError(f"the factors of {shorten(name, 60)} are of no rank {rank}")
