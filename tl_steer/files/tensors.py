"""Files of tensors with a JSON header: banks, inspections and monitors are all kept this way.

One safetensors file, never pickle. Everything in a file is hostile: it is checked before it is
used, and nothing in it is executed. Whatever `read` refuses for its size or its form, `write`
refuses as well, before the old file is replaced.

Tensors are mapped into memory, and a large file is written in pieces, so that neither takes as much
memory as the file is long.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from tl_steer.errors import SettingError, SteerError
from tl_steer.files.jsons import from_text, to_text
from tl_steer.files.pieces import bytes_of, front_of, in_order
from tl_steer.files.write import write_beside

Sizes = Mapping[str, list[int]]
# Of safetensors itself: names, shapes and places of all tensors, and our header.
_MOST_IN_FRONT = 100_000_000
_TRIES = 8


@dataclass(frozen=True)
class TensorFile:
    """One kind of file.

    Attributes:
        what: what it holds, for people.
        key: where the header stands in the safetensors metadata.
        error: what a bad file raises.
        version: of the format.
        most_header: bytes; a longer header is neither written nor read.
        most_read: bytes of tensors; where there are more, they are read as they are used, and their
            checksum is compared for those who ask for it.
    """

    what: str
    key: str
    error: type[SteerError]
    version: int = 1
    most_header: int = 1 << 25
    most_read: int = sys.maxsize

    def write(self, path: str | Path, meta: dict[str, Any], tensors: Mapping[str, Tensor]) -> Path:
        """Write; an existing file stays whole until the new one is complete.

        Raises:
            SettingError: what could not be read again; nothing is written.
            WriteError: the file cannot be written.
        """
        front = self._front(meta, tensors)
        write_beside(Path(path), _pieces(front, tensors))
        return Path(path)

    def payload(self, meta: dict[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
        """The bytes of a small file.

        Raises:
            SettingError: what could not be read again.
        """
        return b"".join(_pieces(self._front(meta, tensors), tensors))

    def _front(self, meta: dict[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
        try:
            # As it comes back, and so as its checksum is made.
            meta = from_text(to_text(meta | {"format": self.version}))
            meta["sha256"] = digest(meta, tensors)
            header = to_text(meta)
            if len(header) > self.most_header:
                raise ValueError(
                    f"its labels, notes and settings take {len(header)} bytes, and "
                    f"{self.most_header} fit; shorten or drop some"
                )
            found = front_of(tensors, {self.key: header})
            if len(found) > _MOST_IN_FRONT:
                raise ValueError("it has too many tensors, or too long names of them")
        except SteerError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            raise SettingError(f"This {self.what} cannot be saved: {error}.") from error
        return found

    def read(
        self,
        path: Path,
        *,
        refuse_names: Callable[[Path, list[str]], None] | None = None,
        refuse_sizes: Callable[[Path, dict[str, Any], Sizes], None] | None = None,
        verify: bool = True,
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The header and the tensors.

        Args:
            verify: compare the checksum of a file of more than `most_read` bytes as well.
            refuse_names: raises for tensors that do not belong; called first.
            refuse_sizes: raises for shapes that cannot be; called before anything is allocated.

        Raises:
            `error`: the file is missing, damaged, changed, or of another kind.
        """
        # safetensors opens a file twice, and what is written now may come between: the head of one
        # file and the body of another.
        for _ in range(_TRIES):
            there = _which(path)
            try:
                return self._read(path, refuse_names, refuse_sizes, verify)
            except SteerError:
                if _which(path) == there:
                    raise
        return self._read(path, refuse_names, refuse_sizes, verify)

    def _read(
        self,
        path: Path,
        refuse_names: Callable[[Path, list[str]], None] | None,
        refuse_sizes: Callable[[Path, dict[str, Any], Sizes], None] | None,
        verify: bool,
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            if path.is_dir():
                raise self.error(f"{path} is a folder; expected the file of a {self.what}.")
            if not path.is_file():
                raise self.error(f"No {self.what} at {path}.")
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                if refuse_names is not None:
                    refuse_names(path, names)
                meta = self._header(path, (file.metadata() or {}).get(self.key, ""))
                if refuse_sizes is not None:
                    sizes = {name: list(file.get_slice(name).get_shape()) for name in names}
                    refuse_sizes(path, meta, sizes)
                tensors = {name: file.get_tensor(name) for name in names}
            saved = meta.pop("sha256", None)
            looked = verify or self.is_small(tensors)
            unchanged = not looked or saved == digest(meta, tensors)
        except SteerError:
            raise
        except Exception as error:
            # The readers of safetensors and torch have no error of their own for all that can be
            # wrong: unknown dtypes, sizes that overflow, names that are no text.
            raise self.error(
                f"{path} is damaged or not a safetensors file, so it cannot be read: {error}"
            ) from error
        if not unchanged:
            raise self.error(f"{path} was changed after it was saved: its checksum does not match.")
        return meta, tensors

    def is_small(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a file of these is read whole whoever opens it."""
        return sum(values.nbytes for values in tensors.values()) <= self.most_read

    def _header(self, path: Path, header: str) -> dict[str, Any]:
        if not 0 < len(header) <= self.most_header:
            raise self.error(
                f"{path} is no {self.what}: it has no header {self.key} (or one of an absurd size)."
            )
        try:
            meta = from_text(header)
        except ValueError as error:
            raise self.error(f"{path} has an unreadable header: {error}") from error
        version = meta.get("format") if isinstance(meta, dict) else None
        if version != self.version:
            raise self.error(
                f"{path} has {self.what} format {str(version)[:60]}; this tl_steer reads "
                f"{self.version}. If it is newer, upgrade tl_steer."
            )
        return dict(meta)


def _which(path: Path) -> tuple[int, ...] | None:
    """Tells a file from one that has replaced it; nothing where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def digest(meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Finds damage, and edits by accident; it is no signature, so it does not stop a forger."""
    sha = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        sha.update(name.encode())
        for piece in bytes_of(tensors[name]):
            sha.update(piece)
    return sha.hexdigest()


def _pieces(front: bytes, tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    yield front
    for name in in_order(tensors):
        yield from bytes_of(tensors[name])
