"""llama.cpp's control vectors: a GGUF file with one vector per block, `direction.N`, that is added
to the output of block N (counted from 0).

    general.architecture = "controlvector"
    controlvector.model_hint = "llama"      what transformers calls the kind of model; nobody checks
    controlvector.layer_count = 1           how many vectors there are
    direction.12                            float32, one axis

llama.cpp refuses the whole file for any other tensor, for another type or width, and for N = 0.
repeng writes the same file, and its layers are these. llama.cpp's own generator of control vectors
(cvector-generator) writes what it measured behind block i as `direction.(i+1)`, so its vectors act
one block later than they were measured; they are read as they act.

Sources: `common_control_vector_load_one` in llama.cpp's common/common.cpp, and `build_cvec` of its
models; the package gguf.
"""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.errors import BankFileError, HookPointError, WriteError, plain
from tl_steer.files.gguf import F32, GGUFTensor, tensors_of
from tl_steer.files.text import shorten
from tl_steer.interop.directions import (
    Directions,
    directions_of,
    layer_of,
    model_type,
    refuse_directions,
)
from tl_steer.interop.formats import content_of
from tl_steer.models.model import HookedModel

_ARCHITECTURE = "controlvector"
Value: TypeAlias = str | int | float


def write(bank: Bank, model: HookedModel | None) -> bytes:
    """One vector, or one of a `MultiSite` of several blocks."""
    layers = directions_of(bank, tool="llama.cpp").layers
    if 0 in layers:
        raise HookPointError(
            "llama.cpp has no control vector for the output of block 0: it refuses direction.0. "
            "Learn the vector at blocks.1.hook_resid_post or later, or steer with tl_steer itself."
        )
    named = {f"direction.{layer}": rows[0] for layer, rows in sorted(layers.items())}
    keys: dict[str, Value] = {
        f"{_ARCHITECTURE}.model_hint": model_type(bank, model),
        f"{_ARCHITECTURE}.layer_count": len(named),
    }
    return to_gguf(_ARCHITECTURE, keys, named)


def read(path: Path) -> Directions:
    """See `interop.read`."""
    content = content_of(path)
    try:
        layers: dict[int, Tensor] = {}
        described = tensors_of(content)
        if 4 * sum(math.prod(tensor.shape) for tensor in described.values()) > len(content):
            raise ValueError("its tensors are longer than the file")
        for name, tensor in described.items():
            layer = _layer(name)
            if layer in layers:
                raise ValueError(f"two tensors are named for block {layer}")
            layers[layer] = _values(content, name, tensor)
    except ValueError as error:
        raise BankFileError(f"{path} is no control vector of llama.cpp: {error}.") from error
    refuse_directions(layers, path)
    return Directions(dict(sorted(layers.items())))


def to_gguf(architecture: str, keys: Mapping[str, Value], named: Mapping[str, Tensor]) -> bytes:
    """A GGUF file: whole numbers as uint32, others as float32; tensors as float32, with their axes
    in torch's order.

    Raises:
        WriteError: there is no room for temporary files.
    """
    from gguf import GGUFWriter

    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "written.gguf"
            writer = GGUFWriter(path, architecture)
            for key, value in keys.items():
                _add_key(writer, key, value)
            for name, values in named.items():
                held = values.detach().to("cpu", torch.float32).contiguous()
                writer.add_tensor(name, held.numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            return path.read_bytes()
    except OSError as error:
        raise WriteError(f"The package gguf writes to a temporary file first: {error}.") from error


def _add_key(writer: Any, key: str, value: Value) -> None:
    if isinstance(value, str):
        writer.add_string(key, plain(value))
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    else:
        writer.add_float32(key, value)


def _layer(name: str) -> int:
    front, _, number = name.partition(".")
    if front != "direction":
        raise ValueError(f"it holds {shorten(name, 40)!r}; expected direction.1, direction.2, ...")
    layer = layer_of(number)
    if layer == 0:
        raise ValueError("it holds direction.0, which llama.cpp refuses")
    return layer


def _values(content: bytes, name: str, tensor: GGUFTensor) -> Tensor:
    if tensor.type != F32 or len(tensor.shape) != 1 or tensor.shape[0] < 1:
        raise ValueError(
            f"{shorten(name, 40)!r} is of ggml type {tensor.type} and shape "
            f"{list(tensor.shape)}; expected float32 (0) with one axis"
        )
    stop = tensor.start + 4 * tensor.shape[0]
    if stop > len(content):
        raise ValueError(f"it ends in the middle of {shorten(name, 40)!r}")
    # A copy: torch warns of memory that cannot be written.
    held = bytearray(content[tensor.start : stop])
    return torch.frombuffer(held, dtype=torch.float32)[None]
