"""lm-evaluation-harness, `--model steered`: a `.pt` file of one hook point.

    {"layers.13": {"action": "add", "steering_vector": ..., "steering_coefficient": 1.0}}

The hook point is the name of a module in the model without its head. Its versions 0.4.8 to 0.4.9.1
add the last vector of a file at every hook point, so a file holds one.

Source: lm-eval 0.4.13 and 0.4.8, `SteeredModel`.
"""

import io

import torch

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.interop.directions import directions_of
from tl_steer.models.model import HookedModel


def write(bank: Bank, model: HookedModel | None) -> bytes:
    """One vector, at one block."""
    layers = directions_of(bank, tool="lm-eval").layers
    if len(layers) != 1:
        raise SettingError(
            f"This vector is added at the blocks {sorted(layers)}, and lm-eval takes one: up to "
            "0.4.9.1 it adds the last vector of a file at all of its hook points. Steer at one, or "
            "evaluate with another tool."
        )
    ((layer, rows),) = layers.items()
    held = {
        "action": "add",
        "steering_vector": rows[0],
        "steering_coefficient": 1.0,
        "bias": None,
        "head_index": None,
    }
    file = io.BytesIO()
    torch.save({f"{_blocks(model)}.{layer}": held}, file)
    return file.getvalue()


def _blocks(model: HookedModel | None) -> str:
    """What the list of blocks is called in the model without its head ("layers", GPT-2's "h")."""
    bare = getattr(getattr(model, "original_model", None), "base_model", None)
    if model is None or bare is None:
        raise SettingError(
            "lm-eval names hook points by the modules of the Hugging Face model, which differ from "
            "model to model; give it: export(..., model=...), a TransformerBridge (--model on the "
            "command line)."
        )
    blocks = list(model.blocks)
    for name, module in bare.named_modules():
        if isinstance(module, torch.nn.ModuleList) and list(module) == blocks:
            return str(name)
    raise SettingError("The blocks of this model are not in its Hugging Face model.")
