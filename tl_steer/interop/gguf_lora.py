"""llama.cpp's LoRA: a GGUF file with two factors for each edited matrix, which its server applies
to the requests that ask for it.

    general.architecture = "llama"      as llama.cpp calls it; another than the model's is refused
    general.type = "adapter"
    adapter.type = "lora"
    adapter.lora.alpha = rank           so that alpha / rank is 1; R is in lora_b
    blk.12.ffn_down.weight.lora_a       [rank d_in], float32
    blk.12.ffn_down.weight.lora_b       [d_out rank]

Sources: `llama_adapter_lora_init_impl` and `get_scale` in llama.cpp's src/llama-adapter; names of
tensors and architectures from the package gguf.
"""

from collections.abc import Iterator

from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.interop.directions import model_type
from tl_steer.interop.gguf import Value, to_gguf
from tl_steer.interop.refusals import refuse_moved_biases, refuse_positions, refuse_several
from tl_steer.models.linear_map import refuse_nonlinear
from tl_steer.models.model import HookedModel
from tl_steer.perturbations.adapter import Adapter

# llama.cpp's architecture by transformers' model_type: dense models whose matrices behind the MLP
# and the heads llama.cpp keeps as they are.
ARCHITECTURES = {
    "cohere": "command-r",
    "cohere2": "cohere2",
    "exaone4": "exaone4",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "glm4": "glm4",
    "gpt2": "gpt2",
    "gpt_neox": "gptneox",
    "llama": "llama",
    "mistral": "llama",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmo3": "olmo2",
    "phi": "phi2",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "smollm3": "smollm3",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}


def write(bank: Bank, model: HookedModel | None) -> bytes:
    """One adapter, in all of its layers."""
    edit = _adapter(bank)
    if model is None:
        raise SettingError(
            "llama.cpp applies a LoRA to models of its own architecture only: say which that is "
            "(export(..., model=model), or --model)."
        )
    refuse_moved_biases(model, edit, tool="llama.cpp")
    refuse_nonlinear(model, edit.maps)
    keys: dict[str, Value] = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(edit.reads.shape[2]),
    }
    return to_gguf(_architecture(bank, model), keys, dict(_factors(edit)))


def _adapter(bank: Bank) -> Adapter:
    edit = bank.perturbation()
    if type(edit) is not Adapter:
        raise SettingError(
            f"A LoRA changes matrices, and these are perturbations of kind {edit.kind!r}: it has "
            "no place for them. A vector at the output of a block is a control vector "
            "(to='gguf')."
        )
    refuse_several(bank, tool="a LoRA of llama.cpp")
    refuse_positions(bank, tool="llama.cpp")
    return edit


def _architecture(bank: Bank, model: HookedModel) -> str:
    found = model_type(bank, model)
    if found not in ARCHITECTURES:
        raise SettingError(
            f"No name is known here by which llama.cpp would have {found!r}; those that are: "
            f"{', '.join(ARCHITECTURES)}. The model has to be a TransformerBridge."
        )
    return ARCHITECTURES[found]


def _factors(edit: Adapter) -> Iterator[tuple[str, Tensor]]:
    from gguf import MODEL_TENSOR, TENSOR_NAMES

    maps = {"hook_mlp_out": MODEL_TENSOR.FFN_DOWN, "hook_attn_out": MODEL_TENSOR.ATTN_OUT}
    for index, layer in enumerate(edit.layers):
        name = TENSOR_NAMES[maps[edit.site.kind]].format(bid=layer)
        yield f"{name}.weight.lora_a", edit.reads[0, index]
        yield f"{name}.weight.lora_b", edit.radius * edit.writes[0, index].T
