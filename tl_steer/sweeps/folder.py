"""A sweep on disk: a folder of Parquet files, one per part, that a killed process leaves whole.

    part-000000.parquet ...    the cells; any tool that reads Parquet folders reads them
    _sweep.json                what was asked for
    _state.safetensors         how many parts there are, and sums that no cell holds

A part is written beside and renamed, then the state; a part that the state does not count yet is
written again. So whenever the process dies, no row is lost or doubled.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from tl_steer.errors import SweepFileError
from tl_steer.files.write import write_beside
from tl_steer.sweeps.secrets import without_secrets

VERSION = 1
_ASKED, _STATE = "_sweep.json", "_state.safetensors"


@dataclass(frozen=True, eq=False)
class State:
    """How far a sweep has come.

    Attributes:
        sums: of the directions of responses, over the prompts of each group; a prompt belongs to
            the group of its number modulo the number of groups.
        counts: how many responses each sum holds; responses of zero have no direction.
        parts, prompts: how many are done.
        digest: of the prompts that are done.
        finished: whether there are no more.
    """

    sums: Float[Tensor, "group vec d_target"]
    counts: Float[Tensor, "group vec"]
    parts: int = 0
    prompts: int = 0
    digest: str = ""
    finished: bool = False

    def to_bytes(self) -> bytes:
        names = ("parts", "prompts", "digest", "finished")
        record = json.dumps({name: getattr(self, name) for name in names})
        return save({"sums": self.sums, "counts": self.counts}, {"state": record})


class Folder:
    """The folder of one sweep.

    Raises:
        SweepFileError: it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for, as JSON has it.

        Raises:
            SweepFileError: there is no sweep in the folder.
        """
        try:
            found = json.loads((self.path / _ASKED).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SweepFileError(f"There is no sweep in {self.path} (no {_ASKED}).") from None
        except (OSError, ValueError) as error:
            raise SweepFileError(f"{self.path / _ASKED} cannot be read: {error}") from error
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise SweepFileError(f"{self.path} holds no sweep that this version can read.")
        return found

    @property
    def exists(self) -> bool:
        return (self.path / _ASKED).exists()

    def state(self) -> State | None:
        """How far it has come; `None` before the first part.

        Raises:
            SweepFileError: damaged, or parts that it counts are missing.
        """
        if not (self.path / _STATE).exists():
            return None
        try:
            with safe_open(self.path / _STATE, framework="pt") as file:
                record = json.loads(file.metadata()["state"])
                found = State(file.get_tensor("sums"), file.get_tensor("counts"), **record)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise SweepFileError(f"{self.path / _STATE} cannot be read: {error}") from error
        missing = [path.name for path in self._paths(found.parts) if not path.is_file()]
        if missing:
            raise SweepFileError(
                f"{self.path} is incomplete: {missing[0]} is gone. Put it back, or start anew in "
                "another folder."
            )
        return found

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Write what is asked for, into a folder that holds no sweep."""
        self._write(self.path / _ASKED, json.dumps(dict(asked), indent=1).encode())

    def tidy(self, parts: int) -> None:
        """Remove what a killed process left behind the parts that count."""
        counted = {path.name for path in self._paths(parts)}
        for path in self.path.glob("part-*.parquet"):
            if path.name not in counted:
                path.unlink()
        for draft in self.path.glob(".*.part"):
            draft.unlink(missing_ok=True)

    def add(self, cells: pa.Table, state: State) -> None:
        """Write one part and then the state, which counts it.

        Raises:
            SweepFileError: the disk is full, or cannot be written for another reason. What was
                written before stays as it is.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(cells, sink, compression="zstd")
        path = self._paths(state.parts)[-1]
        self._write(path, sink.getvalue().to_pybytes())
        self.keep(state)

    def keep(self, state: State) -> None:
        """Replace the state."""
        self._write(self.path / _STATE, state.to_bytes())

    def cells(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The cells of every part that counts.

        Raises:
            SweepFileError: a part cannot be read.
        """
        state = self.state()
        tables = []
        for path in self._paths(state.parts if state else 0):
            try:
                # Not by name: the reader would look for partitions in the folder's.
                tables.append(pq.ParquetFile(path).read(columns))
            except (OSError, pa.ArrowException) as error:
                raise SweepFileError(f"{path} cannot be read: {error}") from error
        if not tables:
            raise SweepFileError(f"{self.path} holds no cells yet.")
        return pa.concat_tables(tables)

    def _paths(self, parts: int) -> list[Path]:
        return [self.path / f"part-{i:06d}.parquet" for i in range(parts)]

    def _write(self, path: Path, payload: bytes) -> None:
        try:
            write_beside(path, payload)
        except OSError as error:
            raise SweepFileError(
                f"{path} cannot be written: {error}. What was written before is whole. Make room "
                f"and go on with resume={str(self.path)!r}."
            ) from error


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
    text = without_secrets(str(value))
    return text if len(text) <= 80 else f"{text[:79]}…"


def counted(state: State, *, groups: Tensor, directions: Tensor, digest: str) -> State:
    """The state with one more part.

    Args:
        groups: the group of every prompt.
        directions: of its responses, `[vec batch d_target]`; zeros are left out.
    """
    sums, counts = state.sums.clone(), state.counts.clone()
    sums.index_add_(0, groups, directions.transpose(0, 1))
    counts.index_add_(0, groups, directions.norm(dim=-1).gt(0.5).float().T)
    return replace(
        state,
        sums=sums,
        counts=counts,
        parts=state.parts + 1,
        prompts=state.prompts + len(groups),
        digest=digest,
    )
