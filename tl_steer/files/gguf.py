"""What a GGUF file says that it holds, with every count checked against the bytes that are there.

The reader of the package gguf loops over whatever a file counts: one array of 2^62 bytes, none of
them there, keeps it going until memory runs out. A walk through here ends with the file.

Source: the GGUF specification of ggml, versions 2 and 3 (little-endian).
"""

import struct
from dataclasses import dataclass
from mmap import mmap
from typing import Any

F32 = 0
_STRING, _ARRAY = 8, 9
# Bytes of a value, by its type's number; bool is one.
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MOST_DIMENSIONS = 4
# Generous: models have some thousands of tensors and 250,000 tokens.
_MOST_NAMED, _MOST_LISTED = 1 << 16, 1 << 22


@dataclass(frozen=True)
class GGUFTensor:
    """What a tensor is said to be.

    Attributes:
        type: ggml's number for its type; 0 is float32.
        shape: as ggml orders it, the fastest axis first.
        start: the byte of the file at which its values begin.
    """

    type: int
    shape: tuple[int, ...]
    start: int


def tensors_of(file: bytes | mmap) -> dict[str, GGUFTensor]:
    """The tensors of a GGUF file by name; their values are not read.

    Raises:
        ValueError: it is none, it is truncated, or it counts or names what it cannot hold.
    """
    with memoryview(file) as view:
        return _Walk(view).tensors()


class _Walk:
    def __init__(self, file: memoryview) -> None:
        self.file, self.at = file, 0

    def tensors(self) -> dict[str, GGUFTensor]:
        if bytes(self.file[:4]) != b"GGUF":
            raise ValueError("it does not begin as a GGUF file does")
        version, tensors, keys = self._next("<4xIQQ")
        if version not in (2, 3):
            raise ValueError(f"it is GGUF of version {version}; expected 2 or 3, little-endian")
        alignment = self._keys(keys)
        described = self._described(tensors)
        begin = -(-self.at // alignment) * alignment
        return {
            name: GGUFTensor(kind, shape, begin + offset)
            for name, (kind, shape, offset) in described.items()
        }

    def _keys(self, n: int) -> int:
        """Walk past the keys and their values; where values begin has to be a multiple of this."""
        _refuse_many(n, _MOST_NAMED, "keys")
        seen: set[str] = set()
        alignment = 32
        for _ in range(n):
            name = self._text()
            (kind,) = self._next("<I")
            if name in seen:
                raise ValueError(f"it has the key {name[:40]!r} twice")
            seen.add(name)
            if name == "general.alignment":
                alignment = self._alignment(kind)
            else:
                self._value(kind)
        return alignment

    def _alignment(self, kind: int) -> int:
        found = self._next("<I")[0] if kind == 4 else 0
        if found == 0 or found & (found - 1):
            raise ValueError("its alignment is no power of two")
        return int(found)

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._text()
        elif kind == _ARRAY:
            of, n = self._next("<IQ")
            _refuse_many(n, _MOST_LISTED, "values in one array")
            if of == _STRING:
                for _ in range(n):
                    self._past(self._next("<Q")[0])
            else:
                self._past(n * _size(of))
        else:
            self._past(_size(kind))

    def _described(self, n: int) -> dict[str, tuple[int, tuple[int, ...], int]]:
        _refuse_many(n, _MOST_NAMED, "tensors")
        found: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(n):
            name = self._text()
            (dimensions,) = self._next("<I")
            if name in found or dimensions > _MOST_DIMENSIONS:
                why = "is there twice" if name in found else f"has {dimensions} axes"
                raise ValueError(f"its tensor {name[:40]!r} {why}")
            shape = self._next(f"<{dimensions}Q")
            kind, offset = self._next("<IQ")
            found[name] = kind, shape, offset
        return found

    def _text(self) -> str:
        (length,) = self._next("<Q")
        start = self.at
        self._past(length)
        return bytes(self.file[start : self.at]).decode()

    def _next(self, form: str) -> tuple[Any, ...]:
        start = self.at
        self._past(struct.calcsize(form))
        return struct.unpack_from(form, self.file, start)

    def _past(self, n: int) -> None:
        if n > len(self.file) - self.at:
            raise ValueError("it ends in the middle of what it says that it holds")
        self.at += n


def _size(kind: int) -> int:
    if kind not in _BYTES:
        raise ValueError(f"it has a value of an unknown type ({kind})")
    return _BYTES[kind]


def _refuse_many(n: int, most: int, what: str) -> None:
    if n > most:
        raise ValueError(f"it counts {n} {what}; no such file has more than {most}")
