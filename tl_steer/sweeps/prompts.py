"""Prompts from wherever they lie, row by row, so that a long file never lies in memory.

A source yields `Asked`: where the row stands (for messages), its id and the prompt itself.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tl_steer.errors import PromptError
from tl_steer.sweeps.prompt_files import READERS, rows_of_file

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
        name = str(row[self.ids])
        if any("\ud800" <= c <= "\udfff" for c in name):
            raise PromptError(f"{where} has the id {name!r}, which is half a character.")
        return name

    def _prompt(self, where: str, row: Any) -> Any:
        if self.column is not None and not isinstance(row, Mapping):
            raise PromptError(
                f"{where} is a {type(row).__name__}, which has no column {self.column!r}: leave "
                "column= out, or give rows with fields."
            )
        prompt = self._field(where, row) if isinstance(row, Mapping) else row
        # A table's missing cell is NaN.
        empty = (
            prompt is None
            or (isinstance(prompt, float) and prompt != prompt)
            or (isinstance(prompt, str) and not prompt.strip())
        )
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
        prompts: a list (strings, conversations, token tensors, or rows with fields), a data frame,
            a Hugging Face dataset (streaming or not), or the path of a file: `.txt` (one prompt a
            line), `.jsonl`, `.json` (one list), `.csv`, `.tsv` or `.parquet`.
        column, ids, wrap: as for `PromptSource`.

    Raises:
        PromptError: nothing that prompts can be read from.
    """
    if isinstance(prompts, (str, Path)):
        return PromptSource(rows_of_file(Path(prompts)), column, ids, wrap)
    prompts = _table_rows(prompts)
    no_rows = isinstance(prompts, (Mapping, bytes, bytearray)) or not isinstance(prompts, Iterable)
    if no_rows or getattr(prompts, "ndim", None) == 0:  # one number in a tensor
        raise PromptError(
            f"Prompts came as a {type(prompts).__name__}; expected a list, a dataset (one split of "
            f"it), a data frame, or the path of a file ({', '.join(filter(None, READERS))})."
        )
    rows = lambda: ((f"Row {i}", _fields(row)) for i, row in enumerate(prompts))  # noqa: E731
    return PromptSource(rows, column, ids, wrap, again=hasattr(prompts, "__len__"))


def _table_rows(prompts: Any) -> Any:
    """The rows of a data frame, which itself iterates over its columns."""
    if hasattr(prompts, "to_pylist"):  # Arrow
        return prompts.to_pylist()
    columns = getattr(prompts, "columns", None)
    if columns is None or isinstance(prompts, Mapping):
        return prompts
    names = [str(name) for name in columns]
    if len(set(names)) < len(names):
        raise PromptError(f"The data frame has two columns of one name among {names[:20]}.")
    if hasattr(prompts, "to_dicts"):  # polars
        return prompts.to_dicts()
    if hasattr(prompts, "to_dict"):  # pandas
        return prompts.to_dict("records")
    if hasattr(prompts, "iterrows"):
        return [row for _, row in prompts.iterrows()]
    raise PromptError(
        f"Prompts came as a {type(prompts).__name__}, whose rows cannot be read one by one. Give "
        "a list of its rows."
    )


def _fields(row: Any) -> Any:
    """A row of a data frame as a mapping."""
    own = getattr(row, "to_dict", None)
    return row if own is None or isinstance(row, Mapping) else own()
