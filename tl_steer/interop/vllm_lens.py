"""vllm-lens: steering vectors as its HTTP client and its servers exchange them.

    [{"activations": {"data": "<base64>", "dtype": "float32", "shape": [1, 576], ...},
      "layer_indices": [7], "scale": 1.0, "norm_match": false, "position_indices": null}]

The text of a file is what a request says: `"vllm_xargs": {"apply_steering_vectors": text}`. All
vectors of the list are added, each at the output of its blocks (to the part of a fused layer's
output that the next layer adds its residual to, which comes to the same).

Source: vllm-lens 1.3.0, `SteeringVector`, `deserialize_tensor`, `_apply_steering`.
"""

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.errors import BankFileError, SettingError
from tl_steer.files.jsons import fields, from_text, real, to_text, whole
from tl_steer.files.optional import imported
from tl_steer.interop.directions import Directions, directions_of, layer_of, refuse_directions
from tl_steer.interop.formats import MOST_BYTES, content_of
from tl_steer.models.model import HookedModel

_DEFAULTS = {"scale": 1.0, "norm_match": False, "position_indices": None}
_NEEDED = {"activations", "layer_indices"}
_DTYPES = {
    "torch.float32": torch.float32,
    "torch.float16": torch.float16,
    "torch.bfloat16": torch.bfloat16,
    "torch.float64": torch.float64,
}


def write(bank: Bank, model: HookedModel | None) -> bytes:
    """One vector."""
    layers = directions_of(bank, tool="vllm-lens").layers
    rows = torch.cat([layers[layer] for layer in sorted(layers)])
    held = {"activations": _packed(rows), "layer_indices": sorted(layers), **_DEFAULTS}
    return to_text([held]).encode()


def read(path: Path) -> Directions:
    """See `interop.read`."""
    try:
        held = from_text(content_of(path).decode())
        if not isinstance(held, list) or not held:
            raise ValueError("expected a list of steering vectors")
        layers = _together(held)
    except SettingError:
        raise
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise BankFileError(f"{path} holds no vectors of vllm-lens: {error}.") from error
    refuse_directions(layers, path)
    return Directions(layers)


def _together(vectors: list[Any]) -> dict[int, Tensor]:
    """What all of them add, by block."""
    found: dict[int, Tensor] = {}
    room = MOST_BYTES
    for vector in vectors:
        rows = _one(vector, room)
        room -= sum(row.nbytes for row in rows.values())
        for layer, row in rows.items():
            if row.shape != next(iter(found.values()), row).shape:
                raise ValueError("its vectors are of different widths")  # added, they would spread
            found[layer] = found[layer] + row if layer in found else row
    return found


def _one(vector: Any, room: int) -> dict[int, Tensor]:
    if not isinstance(vector, Mapping) or not set(vector) >= _NEEDED:
        raise ValueError("expected activations and layer_indices")
    held = fields({**_DEFAULTS, **vector}, _NEEDED | set(_DEFAULTS))
    if held["norm_match"] is not False:
        raise ValueError("its length follows the residual stream (norm_match), which no bank says")
    layers = [layer_of(whole(layer)) for layer in held["layer_indices"]]
    rows = _unpacked(held["activations"], room)
    if rows.ndim == 3 or held["position_indices"] is not None:
        raise ValueError("it acts on tokens by their number in one prompt, which no bank says")
    if rows.ndim != 2 or len(rows) != len(layers) or len(set(layers)) != len(layers):
        raise ValueError(f"{tuple(rows.shape)} are no vectors for the layers {layers[:8]}")
    scaled = rows.float() * real(held["scale"])
    return {layer: row[None] for layer, row in zip(layers, scaled, strict=True)}


def _packed(rows: Tensor) -> dict[str, Any]:
    data = base64.b64encode(rows.contiguous().numpy().tobytes()).decode()
    kind = {"dtype": "float32", "original_dtype": "torch.float32"}
    return {"data": data, **kind, "shape": list(rows.shape)}


def _unpacked(held: Any, room: int) -> Tensor:
    """The tensor, of at most `room` bytes; no shape is believed before as many are there."""
    if not isinstance(held, Mapping) or not set(held) >= {"data", "dtype", "shape"}:
        raise ValueError("its activations are no packed tensor")
    kind = held.get("original_dtype", f"torch.{held['dtype']}")
    if kind not in _DTYPES:
        raise ValueError(f"its numbers are {str(kind)[:40]!r}; expected {', '.join(_DTYPES)}")
    shape = [whole(length) for length in held["shape"]]
    size = math.prod(shape) * _DTYPES[kind].itemsize
    if size > room:
        raise ValueError(f"it holds more than {MOST_BYTES >> 20} MB of numbers")
    content = base64.b64decode(held["data"], validate=True)
    if held.get("compression") is not None:
        content = _inflated(content, size, held["compression"])
    if not 0 < size == len(content):
        raise ValueError(f"it holds {len(content)} bytes, and its shape {shape[:4]} takes {size}")
    return torch.frombuffer(bytearray(content), dtype=_DTYPES[kind]).reshape(shape)


def _inflated(content: bytes, size: int, how: Any) -> bytes:
    if how != "zstd":
        raise ValueError(f"it is compressed by {str(how)[:40]!r}; expected zstd")
    zstandard = imported("zstandard", install="zstandard")
    try:
        # A frame is given as much memory as it says, whatever limit is asked for.
        if zstandard.frame_content_size(content) != size:
            raise ValueError(f"its shape takes {size} bytes, and that is not what is in it")
        found: bytes = zstandard.ZstdDecompressor().decompress(content)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    return found
