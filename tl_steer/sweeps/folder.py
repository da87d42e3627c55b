"""A sweep on disk: a folder of Parquet files, one per part, that a killed process leaves whole.

    part-000000.parquet ...    the cells; any tool that reads Parquet folders reads them
    _sweep.json                what was asked for
    _state.safetensors         how many parts there are, sums that no cell holds, and checksums: of
                               what was asked for, of every part, and of itself

A part is written beside and renamed, then the state; a part that the state does not count yet is
written again. So whenever the process dies, no row is lost or doubled. Checksums find damage; they
are no signature.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tl_steer.errors import SettingError, SweepFileError
from tl_steer.files.digest import sha256
from tl_steer.files.jsons import from_text
from tl_steer.files.lock import locked
from tl_steer.files.text import shorten
from tl_steer.files.write import beside, tidy, write_beside
from tl_steer.sweeps.asked import refuse_asked, refuse_part
from tl_steer.sweeps.secrets import without_secrets
from tl_steer.sweeps.state import (
    RECORD,
    STATE_FILE,
    State,
    is_old,
    read_old_state,
    read_state,
    refuse_state,
)

VERSION = 1
_ASKED, _STATE = "_sweep.json", "_state.safetensors"
_MOST_ASKED = 1 << 25


class Folder:
    """The folder of one sweep.

    Raises:
        SweepFileError: it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._known: dict[str, tuple[int, ...]] = {}

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for, as JSON has it.

        Raises:
            SweepFileError: there is no sweep in the folder, or it is damaged.
        """
        path = self.path / _ASKED
        try:
            found = from_text(_content(path, _MOST_ASKED).decode("utf-8"))
            if not isinstance(found, dict) or found.get("version") != VERSION:
                raise SweepFileError(f"{self.path} holds no sweep that this version can read.")
            refuse_asked(found)
        except FileNotFoundError:
            raise SweepFileError(f"There is no sweep in {self.path} (no {_ASKED}).") from None
        except (OSError, ValueError, KeyError) as error:
            raise SweepFileError(f"{path} cannot be read: {error}.") from error
        return found

    @property
    def exists(self) -> bool:
        return (self.path / _ASKED).exists()

    def held(self) -> AbstractContextManager[None]:
        """The folder as this process's own, for as long as a `with` block lasts.

        Raises:
            SweepFileError: another process writes to it.
            WriteError: nothing can be written there.
        """
        return locked(beside(self.path / _STATE, "lock"), str(self.path), SweepFileError)

    def state(self) -> State | None:
        """How far it has come; `None` before the first part.

        Raises:
            SweepFileError: damaged, of another sweep than what was asked for, or parts that it
                counts are missing or damaged.
        """
        if not (self.path / _STATE).exists():
            return None
        path, asked = self.path / _STATE, self.asked
        try:
            found, of = (read_old_state(path), None) if is_old(path) else read_state(path)
            refuse_state(found, asked)
        except (ValueError, KeyError, TypeError) as error:
            raise SweepFileError(f"{path} cannot be read: {error}") from error
        if of is not None and of != _digest_of(asked):
            raise SweepFileError(
                f"{self.path / _ASKED} was changed after it was written, or {_STATE} is of another "
                "sweep: their checksums do not match."
            )
        for i, part in enumerate(self._paths(found.parts)):
            self._refuse_part(part, found.checks[i] if len(found.checks) else None)
        return found

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Write what is asked for, into a folder that holds no sweep.

        Raises:
            SettingError: it is too long to be read again.
        """
        content = json.dumps(dict(asked), indent=1).encode()
        if len(content) > _MOST_ASKED:
            raise SettingError(
                f"What this sweep asks for takes {len(content)} bytes (its labels, mostly), and "
                f"{_MOST_ASKED} can be kept: shorten the bank's labels."
            )
        self._write(self.path / _ASKED, content)

    def tidy(self, parts: int) -> None:
        """Remove what a killed process left behind the parts that count; the folder must be held.

        Raises:
            WriteError: it cannot be removed.
        """
        counted = {path.name for path in self._paths(parts)}
        for path in self.path.glob("part-*.parquet"):
            if path.name not in counted:
                path.unlink(missing_ok=True)
        tidy(self.path)

    def add(self, cells: pa.Table, state: State) -> State:
        """Write one part and then the state, which counts it.

        Returns:
            The state with the part's checksum.

        Raises:
            SweepFileError: the disk is full, or cannot be written for another reason. What was
                written before stays as it is.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(cells, sink, compression="zstd", write_page_checksum=True)
        content = sink.getvalue().to_pybytes()
        path = self._paths(state.parts)[-1]
        self._write(path, content)
        if len(state.checks) == state.parts - 1:  # not where 0.1.0 began
            own = torch.tensor([*hashlib.sha256(content).digest()], dtype=torch.uint8, device="cpu")
            state = replace(state, checks=torch.cat([state.checks, own[None]]))
        self.keep(state)
        return state

    def keep(self, state: State) -> None:
        """Replace the state."""
        meta: dict[str, Any] = {name: getattr(state, name) for name in RECORD}
        meta["asked"] = _digest_of(self.asked)
        tensors = {"sums": state.sums, "counts": state.counts, "checks": state.checks}
        self._write(self.path / _STATE, STATE_FILE.payload(meta, tensors))

    def refuse_rows(self) -> None:
        """Compare who steered in every row, and on which prompt, with what was asked for.

        Raises:
            SweepFileError: they differ, or a part cannot be read.
        """
        state, asked = self.state(), self.asked
        found = self.cells(["prompt", "kind", "vector", "dose"])
        n = len(asked["who"])
        who = [[*found[name].to_pylist()] for name in ("kind", "vector", "dose")]
        rows = list(map(list, zip(*who, strict=True)))
        prompts = found["prompt"].to_pylist()
        whole = state is not None and len(prompts) == n * state.prompts
        if (
            not whole
            or prompts != [i // n for i in range(len(prompts))]
            or any(rows[i : i + n] != asked["who"] for i in range(0, len(rows), n))
        ):
            raise SweepFileError(
                f"{self.path} holds cells that are not those of this sweep's vectors and prompts, "
                "in their order."
            )

    def cells(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The cells of every part that counts.

        Raises:
            SweepFileError: a part cannot be read.
        """
        state, asked = self.state(), self.asked
        tables = []
        for path in self._paths(0 if state is None else state.parts):
            try:
                # Not by name: the reader would look for partitions in the folder's.
                with pq.ParquetFile(path, page_checksum_verification=True) as file:
                    refuse_part(file, asked)
                    tables.append(file.read(None if columns is None else list(columns)))
            except (OSError, ValueError, pa.ArrowException) as error:
                raise SweepFileError(f"{path} cannot be read: {error}") from error
        if not tables or state is None:
            raise SweepFileError(f"{self.path} holds no cells yet.")
        try:
            return pa.concat_tables(tables)
        except pa.ArrowException as error:
            raise SweepFileError(f"{self.path} has parts that do not fit: {error}") from error

    def _refuse_part(self, path: Path, check: Tensor | None) -> None:
        """Compare a part with its checksum, once for as long as the file is the same."""
        try:
            at = path.stat()
            now = (at.st_ino, at.st_size, at.st_mtime_ns)
            if check is None or self._known.get(path.name) == now:
                return
            with open(path, "rb") as file:
                own = sha256(file)
        except OSError as error:
            raise SweepFileError(
                f"{self.path} is incomplete: {path.name} is gone or cannot be read ({error}). Put "
                "it back, or start anew in another folder."
            ) from error
        if own != bytes(check.tolist()):
            raise SweepFileError(
                f"{path} was changed after it was written: its checksum does not match. Put the "
                "right one back, or start anew in another folder."
            )
        self._known[path.name] = now

    def _paths(self, parts: int) -> list[Path]:
        return [self.path / f"part-{i:06d}.parquet" for i in range(parts)]

    def _write(self, path: Path, payload: bytes) -> None:
        try:
            write_beside(path, payload)
        except OSError as error:
            raise SweepFileError(
                f"{error} Make room and go on with resume={str(self.path)!r}."
            ) from error


def _content(path: Path, most: int) -> bytes:
    with open(path, "rb") as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise ValueError(f"it is longer than {most} bytes")
    return found


def _digest_of(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(asked), sort_keys=True).encode()).hexdigest()


def refuse_other(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse to go on with a sweep that was asked for differently.

    Raises:
        SweepFileError: naming everything that differs.
    """
    here = json.loads(json.dumps(dict(here)))
    names = [name for name in here if not _alike(there.get(name), here[name])]
    if names:
        told = "; ".join(
            f"{n} is {_short(there.get(n))} there, {_short(here[n])} here" for n in names
        )
        raise SweepFileError(
            f"{path} holds another sweep: {told}. Repeat the arguments that it was started with, "
            "or save to another folder."
        )


def _alike(there: object, here: object) -> bool:
    """Equal, but for a secret that an older version has kept."""
    return there == here or without_secrets(str(there)) == str(here)


def _short(value: object) -> str:
    return shorten(without_secrets(str(value)), 80)
