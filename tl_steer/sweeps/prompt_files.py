"""Files of prompts, read row by row. Whatever is in them, they end as rows or as `PromptError`, and
take no more memory than a row or, for Parquet, a few hundred rows."""

import csv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeAlias

from tl_steer.errors import PromptError
from tl_steer.files.jsons import from_text

Rows: TypeAlias = Iterable[tuple[str, Any]]
# Characters of a row: far more than any context holds.
_MOST_ROW = 1 << 24
_MOST_JSON = 1 << 26
# What a row group may become, and how many times larger than the file if it is large.
_MOST_GROUP, _LARGE, _MOST_GROWTH = 1 << 32, 1 << 26, 300


def rows_of_file(path: Path) -> Callable[[], Rows]:
    """What reads a file's rows anew.

    Raises:
        PromptError: there is no such file, or it is none of a known kind.
    """
    try:
        there = path.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise PromptError(
            f"There is no file {str(path)[:80]!r}. Prompts come as a list, a dataset or the path "
            "of a file; a single prompt as [prompt]."
        )
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise PromptError(
            f"{path.name} ends in {path.suffix!r}, which prompts are not read from; there are "
            f"{', '.join(filter(None, READERS))}. Rename it if it is one of these, or give its "
            "rows as a list."
        )
    return lambda: _told(path, read(path))


def _told(path: Path, rows: Rows) -> Iterator[tuple[str, Any]]:
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{path.name} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as "
            "UTF-8."
        ) from error
    except OSError as error:
        raise PromptError(f"{path.name} cannot be read: {error.strerror or error}.") from error


def _open(path: Path) -> IO[str]:
    # A byte order mark is no part of the first prompt.
    return open(path, encoding="utf-8-sig", newline="")


def _lines(path: Path) -> Rows:
    with _open(path) as file:
        for number, line in enumerate(_bounded(path, file), start=1):
            yield f"Line {number} of {path.name}", line.rstrip("\r\n")


def _bounded(path: Path, file: IO[str]) -> Iterator[str]:
    number = 0
    while line := file.readline(_MOST_ROW + 1):
        number += 1
        if len(line) > _MOST_ROW:
            raise PromptError(
                f"Line {number} of {path.name} has more than {_MOST_ROW} characters: it is no "
                "file of prompts."
            )
        if "\0" in line:
            raise PromptError(
                f"Line {number} of {path.name} holds NUL characters, so it is no UTF-8 text. Save "
                "it as UTF-8."
            )
        yield line


def _jsonl(path: Path) -> Rows:
    for where, line in _lines(path):
        try:
            yield where, from_text(line) if line.strip() else None
        except ValueError as error:
            raise PromptError(f"{where} is not JSON: {error}.") from error


def _json(path: Path) -> Rows:
    with _open(path) as file:
        content = file.read(_MOST_JSON + 1)
    if len(content) > _MOST_JSON:
        raise PromptError(f"{path.name} is too long for one list; make a .jsonl of it.")
    try:
        found = from_text(content)
    except ValueError as error:
        raise PromptError(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(found, list):
        raise PromptError(
            f"{path.name} holds a {type(found).__name__}; expected one list of prompts or of rows."
        )
    for number, row in enumerate(found):
        yield f"Row {number} of {path.name}", row


def _csv(path: Path, delimiter: str = ",") -> Rows:
    with _open(path) as file:
        rows = csv.DictReader(_bounded(path, file), delimiter=delimiter)
        try:
            names = rows.fieldnames or ()
            if len(set(names)) < len(names):
                raise PromptError(f"{path.name} has two columns of one name.")
            for number, row in enumerate(rows, start=1):
                if None in row:
                    raise PromptError(
                        f"Row {number} of {path.name} has more fields than the heading: put texts "
                        f"that hold a {delimiter!r} into quotes."
                    )
                yield f"Row {number} of {path.name}", row
        except csv.Error as error:
            raise PromptError(
                f"{path.name} cannot be read at line {rows.line_num}: {error}."
            ) from (error)


def _tsv(path: Path) -> Rows:
    return _csv(path, "\t")


def _parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as raw, pq.ParquetFile(raw) as file:
            _refuse_bomb(path, file)
            number = 0
            # Texts stay in their dictionary: a short one may name a long text a million times.
            names = [each.path for each in _columns(file) if each.physical_type == "BYTE_ARRAY"]
        with pq.ParquetFile(path, read_dictionary=names) as file:
            for batch in file.iter_batches(batch_size=256, use_threads=False):
                columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                for i in range(batch.num_rows):
                    row = {name: _cell(column[i]) for name, column in columns.items()}
                    yield f"Row {number} of {path.name}", row
                    number += 1
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        if isinstance(error, PromptError):
            raise
        raise PromptError(
            f"{path.name} is not a Parquet file, or a damaged one: {error}."
        ) from error


def _columns(file: Any) -> list[Any]:
    return [file.schema.column(i) for i in range(len(file.schema))]


def _cell(value: Any) -> Any:
    found = value.as_py()
    if isinstance(found, (str, bytes)) and len(found) > _MOST_ROW:
        raise ValueError(f"a cell holds more than {_MOST_ROW} characters")
    return found


def _refuse_bomb(path: Path, file: Any) -> None:
    """By the sizes of row groups. Those of columns would say more, but asking pyarrow for them ends
    the process where they are damaged: its `column()` lets no C++ exception through."""
    stored = path.stat().st_size
    for i in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(i).total_byte_size
        bomb = size > _LARGE and size > _MOST_GROWTH * stored
        if size > _MOST_GROUP or size < 0 or bomb:
            raise PromptError(
                f"{path.name} would unpack {stored} bytes into {size} and more. Write it anew with "
                "shorter texts or smaller row groups."
            )


READERS: dict[str, Callable[[Path], Rows]] = {
    "": _lines,
    ".txt": _lines,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
