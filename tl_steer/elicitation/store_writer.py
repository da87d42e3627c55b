"""Writing a grid's folder: what may be kept of it, and a cell after the other."""

import hashlib
import json
from contextlib import AbstractContextManager
from pathlib import Path

from tl_steer.elicitation.grid_plan import Cell, GridPlan
from tl_steer.elicitation.index import Row, bank_name, cell_columns, to_parquet
from tl_steer.elicitation.searching import Found
from tl_steer.elicitation.store import (
    GRID,
    INDEX,
    MOST_BYTES,
    VERSION,
    Store,
    is_whole,
    load_grid,
    read_index,
    read_plan,
)
from tl_steer.errors import GridFileError, SettingError
from tl_steer.files.lock import locked
from tl_steer.files.text import said, shorten
from tl_steer.files.write import beside, tidy, write_beside
from tl_steer.models.engine import Outcome


class Writer:
    """The folder of a grid that is being searched.

    Args:
        after: what is done behind each search, in words.
    """

    def __init__(self, folder: Path, plan: GridPlan, after: str) -> None:
        self.folder, self.plan, self.after = folder, plan, after
        self.rows: dict[int, Row] = {}

    def held(self) -> AbstractContextManager[None]:
        """The folder as this process's own, for as long as a `with` block lasts.

        Raises:
            GridFileError: another process writes to it.
        """
        return locked(beside(self.folder / INDEX, "lock"), str(self.folder), GridFileError)

    def begin(self, *, resumed: bool) -> None:
        """Look at what is there, once the folder is held, and keep what can be kept.

        Raises:
            GridFileError: a grid that was not resumed, or another one.
        """
        if not (self.folder / GRID).exists():
            asked = {"version": VERSION, "plan": self.plan.to_json(), "after": self.after}
            content = json.dumps(asked, indent=1).encode()
            if len(content) > MOST_BYTES:
                raise SettingError(
                    f"This plan takes {len(content)} bytes, and {MOST_BYTES} can be kept: it has "
                    "too many prompts, or too long ones."
                )
            self._write(GRID, content)
            return
        if not resumed:
            raise GridFileError(
                f"{self.folder} holds a grid already. Go on with it by "
                f"resume={str(self.folder)!r} (--resume on the command line), or save to another "
                "folder."
            )
        self._refuse_other()
        tidy(self.folder)
        for row in read_index(self.folder, self.plan):
            if row["file"] is not None and is_whole(self.folder / row["file"], row):
                self.rows[row["cell"]] = row

    def left(self) -> list[Cell]:
        """The cells that have no bank yet."""
        return [cell for cell in self.plan.cells() if cell.number not in self.rows]

    def add(self, outcome: Outcome[Cell, Found]) -> None:
        """Write what came of a cell: its bank, then the index.

        Raises:
            GridFileError: the disk is full, say. What was written before stays as it is.
        """
        found = outcome.result
        if found is None:  # its workers died
            found = Found({}, error=said(outcome.error or RuntimeError(), most=2000))
        row: Row = cell_columns(outcome.item) | {"file": None, "sha256": None, "error": found.error}
        if found.file is not None:
            name = bank_name(outcome.item.number)
            self._write(name, found.file)
            row |= {"file": name, "sha256": hashlib.sha256(found.file).hexdigest()}
        self.rows[outcome.item.number] = row | dict(found.numbers)
        self._write(INDEX, to_parquet(self._sorted()))

    def store(self) -> Store:
        """What is there now, as whoever reads it has it."""
        return load_grid(self.folder)

    def _sorted(self) -> list[Row]:
        return [self.rows[key] for key in sorted(self.rows)]

    def _refuse_other(self) -> None:
        plan, after = read_plan(self.folder)
        there, here = plan.to_json() | {"after": after}, self.plan.to_json() | {"after": self.after}
        told = [
            f"{name} is {shorten(str(there[name]), 80)} there, {shorten(str(here[name]), 80)} here"
            for name in here
            if there[name] != here[name]
        ]
        if told:
            raise GridFileError(
                f"{self.folder} holds another grid: {'; '.join(told)}. Repeat the plan that it was "
                "started with, or save to another folder."
            )

    def _write(self, name: str, payload: bytes) -> None:
        try:
            write_beside(self.folder / name, payload)
        except OSError as error:
            raise GridFileError(
                f"{error} Make room and go on with resume={str(self.folder)!r}."
            ) from error
