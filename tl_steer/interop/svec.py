"""AISteer360's `.svec`: JSON with a matrix of directions for each layer, which are added at the
output of its block.

    {"model_type": "llama", "directions": {"13": [[...]]}}

One row is added at the tokens that the control is told (`token_scope`). Several rows are one for
each token from the first on, a plane, or one for each head, by the control that reads them: none of
these is a set of vectors to choose from.

Source: AISteer360 0.3.0, `SteeringVector.save` and `load`, `AdditiveTransform`.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.errors import BankFileError
from tl_steer.files.jsons import from_text, to_text
from tl_steer.interop.directions import (
    Directions,
    directions_of,
    layer_of,
    model_type,
    refuse_directions,
)
from tl_steer.interop.formats import content_of
from tl_steer.models.model import HookedModel

_NEEDED = {"model_type", "directions"}
# How well the directions were estimated, which changes nothing of what they do.
_ASIDE = {"explained_variances", "probe_accuracies"}


def write(bank: Bank, model: HookedModel | None) -> bytes:
    """One vector."""
    layers = directions_of(bank, tool="AISteer360").layers
    held = {str(layer): rows.tolist() for layer, rows in sorted(layers.items())}
    return to_text({"model_type": model_type(bank, model), "directions": held}).encode()


def read(path: Path) -> Directions:
    """See `interop.read`."""
    try:
        held = from_text(content_of(path).decode())
        if not isinstance(held, dict) or not set(held) >= _NEEDED:
            raise ValueError("expected directions and model_type")
        if set(held) - _NEEDED - _ASIDE:
            raise ValueError(f"{sorted(set(held) - _NEEDED - _ASIDE)} make it one for heads")
        layers = {layer_of(layer): _row(rows) for layer, rows in dict(held["directions"]).items()}
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise BankFileError(f"{path} is no .svec file of one vector: {error}.") from error
    refuse_directions(layers, path)
    return Directions(layers)


def _row(rows: Any) -> Tensor:
    """`[1 d_model]`; a single vector is written as a list as well."""
    found = torch.tensor(rows, dtype=torch.float32, device="cpu")
    found = found[None] if found.ndim == 1 else found
    if found.ndim == 2 and len(found) > 1:
        raise ValueError(
            f"it holds {len(found)} rows a layer, which are tokens, a plane or heads to its reader"
        )
    return found
