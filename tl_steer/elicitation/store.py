"""A grid on disk: a folder of banks and one index, which a killed process leaves whole.

    _grid.json                   what is searched
    index.parquet                a row for every cell that is done, in the order of the cells
    cell-000000.safetensors ...  the banks; a cell that failed has none, and an error in its row

A bank is written first and then the index, which has its checksum; a bank that the index does not
know yet is written again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_steer.banks.bank import Bank, load_bank
from tl_steer.elicitation.grid_plan import GridPlan
from tl_steer.elicitation.index import Row, cell_columns, from_parquet
from tl_steer.errors import GridFileError, SettingError
from tl_steer.files.digest import sha256
from tl_steer.files.jsons import fields, from_text, text, whole
from tl_steer.files.read import read_bounded
from tl_steer.files.signatures import typed
from tl_steer.files.tables import MOST_ROWS, Sheet, Tabled, number
from tl_steer.files.text import shorten

VERSION = 1
GRID, INDEX = "_grid.json", "index.parquet"
MOST_BYTES = 1 << 25


@dataclass(frozen=True, eq=False, repr=False)
class Store(Tabled):
    """The banks of a grid; `grid` makes it and `load_grid` reads it.

    Attributes:
        folder: where they are.
        plan: what was searched.
        rows: what is done, a mapping for each cell: the cell, what its bank is worth
            (`elicitation.searching.measures`), and `error` where it failed.
    """

    folder: Path
    plan: GridPlan
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def finished(self) -> bool:
        """Whether every cell is done, well or not."""
        return len(self.rows) == len(self.plan.cells())

    def failures(self) -> list[tuple[int, str]]:
        """Number and error of every cell that failed."""
        return [(row["cell"], row["error"]) for row in self.rows if row["error"] is not None]

    def bank(self, cell: int) -> Bank:
        """The bank of a cell, by the number in the index.

        Raises:
            SettingError: the cell has none.
            GridFileError: its file is gone, or was changed after it was written.
        """
        row = next((row for row in self.rows if row["cell"] == cell), None)
        if row is None or row["file"] is None:
            why = "is not done" if row is None else f"failed: {row['error']}"
            raise SettingError(f"Cell {cell} has no bank; it {why}.")
        path = self.folder / row["file"]
        if not is_whole(path, row):
            raise GridFileError(
                f"{path} is gone or was changed after it was written. Put it back, or have it "
                f"searched again: grid(plan, resume={str(self.folder)!r})."
            )
        return load_bank(path)

    def table(self, *, most: int = MOST_ROWS) -> Sheet:
        """A row per cell, those of the largest gain first; settings that are the same everywhere
        are left out."""
        rows = sorted(self.rows, key=_by_gain)[:most]
        names = ["cell", *cell_columns(), "objective", "gain", "random", "error"]
        shown = [tuple(_shown(row.get(name)) for name in names) for row in rows]
        same = {n for n in cell_columns() if len({row[n] for row in self.rows}) < 2}
        same |= {n for n in ("random", "error") if all(row.get(n) is None for row in self.rows)}
        left_out = len(self.rows) - len(rows)
        note = (
            f"{len(self.rows)} of {len(self.plan.cells())} cells, {len(self.failures())} failed."
            + (f" {left_out} more rows not shown." if left_out else "")
        )
        sheet = Sheet(f"Grid of searches in {self.folder}", tuple(names), tuple(shown), note)
        return sheet.without(same - {"source", "target"})


def _by_gain(row: Row) -> tuple[float, int]:
    gain = row["gain"]
    unknown = gain is None or math.isnan(gain)
    return (math.inf if unknown else -gain), row["cell"]


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else shorten(str(value), 60)


@typed
def load_grid(path: str | Path) -> Store:
    """Read a grid, finished or not; no model is needed.

    Raises:
        GridFileError: there is none, or it is damaged. Banks are looked at when they are asked for.
    """
    plan, _ = read_plan(Path(path))
    return Store(Path(path), plan, tuple(read_index(Path(path), plan)))


def is_whole(path: Path, row: Mapping[str, Any]) -> bool:
    """Whether a bank's file is there, as its row says that it was written."""
    try:
        with open(path, "rb") as file:
            return bool(sha256(file).hex() == row["sha256"])
    except OSError:
        return False


def read_plan(folder: Path) -> tuple[GridPlan, str]:
    """What is searched, and what is done behind each search, in words.

    Raises:
        GridFileError: there is no grid, or it is damaged.
    """
    path = folder / GRID
    try:
        content = read_bounded(path, MOST_BYTES)
        found = fields(from_text(content.decode("utf-8")), {"version", "plan", "after"})
        if whole(found["version"]) != VERSION:
            raise ValueError(f"it has version {found['version']}; this tl_steer reads {VERSION}")
        return GridPlan.of(found["plan"]), text(found["after"])
    except FileNotFoundError:
        raise GridFileError(f"There is no grid in {folder} (no {GRID}).") from None
    except (OSError, ValueError, TypeError) as error:
        raise GridFileError(f"{path} cannot be read: {error}") from error


def read_index(folder: Path, plan: GridPlan) -> Sequence[Row]:
    """The rows of what is done.

    Raises:
        GridFileError: it is damaged.
    """
    path = folder / INDEX
    if not path.exists():
        return ()
    try:
        return from_parquet(path, plan.cells())
    except (OSError, ValueError) as error:
        raise GridFileError(
            f"{path} cannot be read: {error} Delete it to have every cell searched again."
        ) from error
