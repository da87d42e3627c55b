"""The bytes of a safetensors file, piece by piece: what is written is never in memory twice.

The format, as https://github.com/huggingface/safetensors describes it: 8 bytes with the length of a
JSON header, the header, and the tensors' bytes in the order of the header's offsets.
"""

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_PIECE = 1 << 26  # bytes
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def front_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """What stands before the tensors.

    Raises:
        ValueError: a dtype that no file holds, or a name that is no text.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name in in_order(tensors):
        values = tensors[name]
        if values.dtype not in _NAMES:
            raise ValueError(f"{name} is of {values.dtype}, which these files do not hold")
        end = at + values.numel() * values.element_size()
        entries[name] = {
            "dtype": _NAMES[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [at, end],
        }
        at = end
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Wide numbers first, so that every tensor begins at a multiple of its numbers' size."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def parts_of(values: Tensor) -> Iterator[Tensor]:
    """A tensor in runs of rows that take a bounded number of bytes; none where it is empty."""
    rows = values.detach()
    rows = rows.reshape(1) if rows.ndim == 0 else rows
    if rows.numel():
        yield from rows.split(max(1, _PIECE // rows[0].nbytes))


def bytes_of(values: Tensor) -> Iterator[memoryview]:
    """A tensor's bytes, run by run."""
    for part in parts_of(values):
        whole = part.cpu().contiguous()
        # A lone number counts as contiguous at any stride, and has no bytes at another than 1.
        yield whole.as_strided((whole.numel(),), (1,)).view(torch.uint8).numpy().data


def odd_row(values: Tensor) -> int | None:
    """The first row that holds NaN or infinity, in little memory and one reading; none where all
    numbers are finite."""
    before = 0
    for part in parts_of(values):
        # Extremes are NaN where anything is, and found ten times faster than isfinite finds it.
        if not all(bool(end.isfinite()) for end in part.aminmax()):
            odd = ~part.isfinite().reshape(len(part), -1).all(dim=1)
            return before + int(odd.nonzero()[0])
        before += len(part)
    return None
