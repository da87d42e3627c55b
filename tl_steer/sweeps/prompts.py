"""Prompts from wherever they lie, row by row, so that a long file never lies in memory.

A source yields `Asked`: where the row stands (for messages), its id and the prompt itself.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tl_steer.errors import PromptError

Rows: TypeAlias = Iterable[tuple[str, Any]]
# Where a row has several fields and none is asked for: the first of these that it has.
COLUMNS = ("prompt", "text", "question", "instruction", "messages")


@dataclass(frozen=True)
class Asked:
    """One row: `where` it stands, its `id`, and the prompt (as for `tokenize`)."""

    where: str
    id: str
    prompt: Any


@dataclass(frozen=True)
class PromptSource:
    """Rows read anew on every iteration.

    Args:
        rows: makes an iterator of `(where, row)`.
        column: the field that holds the prompt, in rows that have several.
        ids: the field that holds the id; without one, rows are numbered from 0.
        wrap: applied to prompts that are strings; `tl_steer.chat`, say.
        again: whether reading it twice is cheap and gives the same rows.
    """

    rows: Callable[[], Rows]
    column: str | None = None
    ids: str | None = None
    wrap: Callable[[str], Any] | None = None
    again: bool = True

    def __iter__(self) -> Iterator[Asked]:
        """The rows.

        Raises:
            PromptError: a row without text or with an id that an earlier row has, by its place.
        """
        seen: dict[str, str] = {}
        for number, (where, row) in enumerate(self.rows()):
            name = self._id(where, row, number)
            if name in seen:
                raise PromptError(
                    f"{where} has the id {name!r}, which {seen[name]} has too. Give every row an "
                    "id of its own, or leave ids= out and rows are numbered."
                )
            seen[name] = where
            yield Asked(where, name, self._prompt(where, row))

    def _id(self, where: str, row: Any, number: int) -> str:
        if self.ids is None:
            return str(number)
        if not isinstance(row, Mapping) or row.get(self.ids) is None:
            raise PromptError(f"{where} has no {self.ids!r} to be known by.")
        return str(row[self.ids])

    def _prompt(self, where: str, row: Any) -> Any:
        prompt = self._field(where, row) if isinstance(row, Mapping) else row
        empty = prompt is None or (isinstance(prompt, str) and not prompt.strip())
        if empty or (isinstance(prompt, Sequence) and len(prompt) == 0):
            raise PromptError(f"{where} has no text. Drop it, or put a prompt there.")
        return self.wrap(prompt) if self.wrap is not None and isinstance(prompt, str) else prompt

    def _field(self, where: str, row: Mapping[str, Any]) -> Any:
        wanted = COLUMNS if self.column is None else (self.column,)
        for name in wanted:
            if name in row:
                return row[name]
        raise PromptError(
            f"{where} has no {' or '.join(repr(n) for n in wanted)}; it has "
            f"{', '.join(repr(str(n)) for n in row) or 'nothing'}. Name the column with column=."
        )


def source_of(
    prompts: Any,
    *,
    column: str | None = None,
    ids: str | None = None,
    wrap: Callable[[str], Any] | None = None,
) -> PromptSource:
    """Prompts as a source.

    Args:
        prompts: a list (strings, conversations, token tensors, or rows with fields), a Hugging Face
            dataset (streaming or not), or the path of a text file (one prompt a line), `.jsonl`,
            `.csv` or `.parquet`.
        column, ids, wrap: as for `PromptSource`.

    Raises:
        PromptError: nothing that prompts can be read from.
    """
    if isinstance(prompts, (str, Path)):
        path = Path(prompts)
        if not path.is_file():
            raise PromptError(
                f"There is no file {str(prompts)[:80]!r}. Prompts come as a list, a dataset or the "
                "path of a file; a single prompt as [prompt]."
            )
        read = _READERS.get(path.suffix.lower(), _lines)
        return PromptSource(lambda: read(path), column, ids, wrap)
    if isinstance(prompts, Mapping) or not isinstance(prompts, Iterable):
        raise PromptError(
            f"Prompts came as a {type(prompts).__name__}; expected a list, a dataset (one split of "
            "it) or the path of a file."
        )
    rows = lambda: ((f"Row {i}", row) for i, row in enumerate(prompts))  # noqa: E731
    return PromptSource(rows, column, ids, wrap, again=hasattr(prompts, "__len__"))


def _lines(path: Path) -> Rows:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            yield f"Line {number} of {path.name}", line.rstrip("\r\n")


def _jsonl(path: Path) -> Rows:
    for where, line in _lines(path):
        try:
            yield where, json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise PromptError(f"{where} is not JSON: {error}.") from error


def _csv(path: Path) -> Rows:
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        try:
            for number, row in enumerate(rows, start=1):
                yield f"Row {number} of {path.name}", row
        except csv.Error as error:
            raise PromptError(
                f"{path.name} cannot be read at line {rows.line_num}: {error}."
            ) from (error)


def _parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise PromptError(f"{path.name} is not a Parquet file: {error}.") from error
    with file:
        rows = (row for batch in file.iter_batches(batch_size=256) for row in batch.to_pylist())
        for number, row in enumerate(rows):
            yield f"Row {number} of {path.name}", row


_READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
