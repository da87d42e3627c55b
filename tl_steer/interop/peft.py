"""PEFT's LoRA folders. Written without peft, for any tool that loads them.

    adapter_config.json   adapter_model.safetensors   README.md

An adapter is what it is: W' = W + (alpha / r) B A, with alpha = R r. A vector is the bias of a
LoRA of rank 1 whose A and B are zero, on the map of the block whose output is added to the stream
as it is; only a base layer with a bias of its own can take that in when it is merged.

Source: PEFT's `LoraConfig` and `LoraLayer`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor, nn

from tl_steer.banks.bank import Bank
from tl_steer.banks.card import HUB_NAME, quoted
from tl_steer.errors import HookPointError, SettingError
from tl_steer.files.jsons import to_text
from tl_steer.files.lora import key_of
from tl_steer.hook_points.site import Site
from tl_steer.interop.directions import block_of
from tl_steer.interop.refusals import refuse_moved_biases, refuse_positions, refuse_several
from tl_steer.models.linear_map import refuse_nonlinear
from tl_steer.models.model import HookedModel, model_name
from tl_steer.models.writes import arrives_unchanged, writing_module
from tl_steer.perturbations.adapter import Adapter
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.multi_site import MultiSite
from tl_steer.perturbations.perturbation import Perturbation

_TOOL = "PEFT"


@dataclass(frozen=True, eq=False)
class _Lora:
    """A low-rank change of some linear maps.

    Attributes:
        tensors: by their names in the folder.
        maps: the modules that are changed, by their names in transformers.
    """

    rank: int
    alpha: float
    tensors: Mapping[str, Tensor]
    maps: Mapping[str, nn.Module]
    bias: bool = False

    @property
    def mergeable(self) -> bool:
        """Whether PEFT can fold it into the weights."""
        biases = (getattr(module, "bias", None) for module in self.maps.values())
        return not self.bias or all(bias is not None for bias in biases)


def write(bank: Bank, model: HookedModel | None) -> Mapping[str, bytes]:
    """One adapter, or one vector, as a folder; `model` is a TransformerBridge, which knows what
    transformers calls its modules.

    Raises:
        SettingError: several edits, other kinds or tokens, or no model.
        NotFiniteError: as `Bank.perturbation`.
        HookPointError: a vector where no map's output is added to the stream as it is.
        ModelError: the model is no bridge.
    """
    if model is None:
        raise SettingError(
            "A LoRA names modules of the transformers model: give model=, the TransformerBridge "
            "that the bank was made on (--model on the command line)."
        )
    refuse_several(bank, tool=_TOOL)
    refuse_positions(bank, tool=_TOOL)
    edits = bank.perturbation()
    lora = _adapter(model, edits) if isinstance(edits, Adapter) else _vectors(model, edits)
    tensors = {name: values.contiguous() for name, values in lora.tensors.items()}
    return {
        "adapter_config.json": to_text(_config(model, lora)).encode(),
        "adapter_model.safetensors": save(tensors, metadata={"format": "pt"}),
        "README.md": _readme(bank, model, lora).encode(),
    }


def _adapter(model: HookedModel, edits: Adapter) -> _Lora:
    tensors: dict[str, Tensor] = {}
    maps: dict[str, nn.Module] = {}
    part = "attn" if edits.site.kind == "hook_attn_out" else "mlp"
    refuse_nonlinear(model, edits.maps)
    refuse_moved_biases(model, edits, tool=_TOOL)
    for index, layer in enumerate(edits.layers):
        name, module = writing_module(model, layer, part)
        maps[name] = module
        tensors |= _factors(name, edits.reads[0, index], edits.writes[0, index].T)
    rank = edits.reads.shape[2]
    return _Lora(rank, edits.radius * rank, tensors, maps)


def _vectors(model: HookedModel, edits: Perturbation) -> _Lora:
    tensors: dict[str, Tensor] = {}
    maps: dict[str, nn.Module] = {}
    for part in edits.parts if isinstance(edits, MultiSite) else (edits,):
        if type(part) is not Additive:
            raise SettingError(
                f"{_TOOL} holds adapters, and vectors that are added; these are perturbations of "
                f"kind {part.kind!r}, which it cannot say."
            )
        name, module = _map_behind(model, part.site)
        vector = part.vectors.detach()[0].to("cpu", torch.float32)
        bias = tensors.get(key_of(name, "B.bias"), torch.zeros_like(vector))
        maps[name] = module
        d_in = _width_in(module, len(vector))
        zeros = torch.zeros(1, d_in, dtype=torch.float32, device="cpu")
        tensors |= _factors(name, zeros, torch.zeros_like(vector)[:, None])
        tensors[key_of(name, "B.bias")] = bias + vector
    return _Lora(1, 1.0, tensors, maps, bias=True)


def _map_behind(model: HookedModel, site: Site) -> tuple[str, nn.Module]:
    """The map whose output reaches this hook point as it is.

    Raises:
        HookPointError: there is none.
    """
    part = "attn" if site.kind == "hook_attn_out" else "mlp"
    inside = site.kind in ("hook_attn_out", "hook_mlp_out")
    layer = site.layer if inside else block_of(site, tool=f"A bias of {_TOOL}'s")
    end = site.point if inside else f"blocks.{layer}.hook_resid_post"
    if not arrives_unchanged(model, f"blocks.{layer}.{part}.hook_out", end):
        raise HookPointError(
            f"What the last map of block {layer}'s {part} gives does not arrive at {end} as it is: "
            "this block has a norm behind it (post-norm) or scales it, so a bias there is not the "
            "vector. Use bank[i].install(hf_model)."
        )
    return writing_module(model, layer, part)


def _width_in(module: nn.Module, d_out: int) -> int:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.numel() % d_out:
        raise HookPointError(f"{type(module).__name__} is no linear map that {_TOOL} changes.")
    return weight.numel() // d_out


def _factors(name: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    pair = {"A.weight": a, "B.weight": b}
    return {key_of(name, k): v.detach().to("cpu", torch.float32) for k, v in pair.items()}


def _config(model: HookedModel, lora: _Lora) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model_name(model),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(lora.maps),
        # transformers' Conv1D, of GPT-2's family, holds its weights the other way round.
        "fan_in_fan_out": not any(isinstance(m, nn.Linear) for m in lora.maps.values()),
        "bias": "none",
        "lora_bias": lora.bias,
        "inference_mode": True,
    }


def _readme(bank: Bank, model: HookedModel, lora: _Lora) -> str:
    what = "a vector that is added at every token" if lora.bias else "a low-rank change of weights"
    merge = (
        "It can be merged into the weights (`merge_and_unload`)."
        if lora.mergeable
        else "It **cannot be merged**: it is the bias of a LoRA (`lora_bias`, with A and B zero), "
        "and the base layer has no bias that could take it. Servers whose LoRA loaders read no "
        "bias (vLLM, llama.cpp) cannot use it either."
    )
    made, name = bank.provenance, model_name(model)
    base = f'base_model: "{name}"\n' if HUB_NAME.fullmatch(name) else ""
    return f"""---
{base}library_name: peft
---

Number {bank.numbers[0]} of a tl_steer bank: {what}, on {", ".join(f"`{m}`" for m in lora.maps)}.
Method: {quoted(made.method) or "not known"}; model: {quoted(made.model)}; hook point:
`{bank.source}`.

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(...), "this/folder")

{merge} Compare with random ones (`tl_steer.random_bank`) before you believe what it does.
"""
