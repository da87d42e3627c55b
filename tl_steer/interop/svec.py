"""AISteer360's `.svec`: JSON with one matrix of directions per layer, each added at the output of
its block.

    {"model_type": "llama", "directions": {"13": [[...], [...]]}}

Source: AISteer360's `SteeringVector.save` and `load`.
"""

from pathlib import Path

import torch

from tl_steer.banks.bank import Bank
from tl_steer.errors import BankFileError
from tl_steer.files.jsons import fields, from_text, to_text
from tl_steer.interop.directions import (
    Directions,
    directions_of,
    layer_of,
    model_type,
    refuse_directions,
)
from tl_steer.interop.formats import content_of
from tl_steer.models.model import HookedModel


def write(bank: Bank, model: HookedModel | None) -> bytes:
    """All vectors, one row each; AISteer360 adds the first, or the one that it is told."""
    layers = directions_of(bank, tool="AISteer360").layers
    held = {str(layer): rows.tolist() for layer, rows in sorted(layers.items())}
    return to_text({"model_type": model_type(bank, model), "directions": held}).encode()


def read(path: Path) -> Directions:
    """See `interop.read`."""
    try:
        held = fields(from_text(content_of(path).decode()), {"model_type", "directions"})
        layers = {
            layer_of(layer): torch.tensor(rows, dtype=torch.float32, device="cpu")
            for layer, rows in dict(held["directions"]).items()
        }
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise BankFileError(f"{path} is no .svec file: {error}") from error
    refuse_directions(layers, path)
    return Directions(layers)
