"""The index of a grid's store: a Parquet file, a row for each cell, and what it may hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tl_steer.elicitation.grid_plan import Cell
from tl_steer.files.jsons import text

Row: TypeAlias = dict[str, Any]

_CELL = {
    "prompts": "string",
    "source": "string",
    "target": "string",
    "radius": "string",
    "method": "string",
    "seed": "int64",
}
# Columns of every index and their types on disk; whatever else there is are numbers.
_OWN = {
    "cell": "int64",
    **_CELL,
    "vectors": "int64",
    "length": "double",
    "share": "double",
    "objective": "double",
    "mean_objective": "double",
    "response": "double",
    "gain": "double",
    "file": "string",
    "sha256": "string",
    "error": "string",
}
OWN_COLUMNS = {*_OWN, "random"}
_MOST_COLUMNS = 1024
_MOST_BYTES = 1 << 28


def bank_name(cell: int) -> str:
    """The file of a cell's bank."""
    return f"cell-{cell:06d}.safetensors"


def cell_columns(cell: Cell | None = None) -> Row:
    """What an index says of a cell before it is searched; the names alone, without one."""
    if cell is None:
        return dict.fromkeys(_CELL)
    radius = cell.radius if isinstance(cell.radius, str) else str(float(cell.radius))
    return {
        "cell": cell.number,
        "prompts": cell.prompts,
        "source": str(cell.source),
        "target": str(cell.target),
        "radius": radius,
        "method": cell.method,
        "seed": cell.seed,
    }


def to_parquet(rows: Sequence[Row]) -> bytes:
    """The bytes of an index; the same for the same rows."""
    import pyarrow as pa  # late, here and below: learning one bank needs none of it
    import pyarrow.parquet as pq

    further = sorted({name for row in rows for name in row} - {*_OWN})
    types = _OWN | dict.fromkeys(further, "double")
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in types.items()])
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_parquet(path: Path, cells: Sequence[Cell]) -> list[Row]:
    """The rows of an index of these cells.

    Raises:
        OSError, ValueError: it is no such index.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _refuse_form(file, len(cells))
            rows: list[Row] = file.read().to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"{error}.") from error
    last = -1
    for row in rows:
        number = row["cell"]
        if number is None or not last < number < len(cells):
            raise ValueError(f"it has a row of cell {number} behind that of cell {last}.")
        _refuse_row(row, cells[number])
        last = number
    return rows


def _refuse_form(file: Any, cells: int) -> None:
    """Before anything of it is read."""
    meta = file.metadata
    if meta.num_columns > _MOST_COLUMNS:
        raise ValueError(f"it has {meta.num_columns} columns.")
    found = {each.name: str(each.type) for each in file.schema_arrow}
    wanted = dict.fromkeys(found, "double") | _OWN
    odd = sorted({name for name in wanted if found.get(name) != wanted[name]})
    if odd or len(found) != meta.num_columns:
        raise ValueError(f"its columns are not those of an index: {odd[:3]}.")
    groups = map(meta.row_group, range(meta.num_row_groups))
    if meta.num_rows > cells or sum(each.total_byte_size for each in groups) > _MOST_BYTES:
        raise ValueError(f"it has {meta.num_rows} rows for {cells} cells, or very long ones.")


def _refuse_row(row: Mapping[str, Any], cell: Cell) -> None:
    own = cell_columns(cell)
    odd = [name for name in own if row[name] != own[name]]
    if odd:
        raise ValueError(f"its row of cell {cell.number} has another {odd[0]} than the plan.")
    if row["error"] is None:
        if row["file"] != bank_name(cell.number):
            raise ValueError(f"its row of cell {cell.number} has neither a bank nor an error.")
        text(row["sha256"])
        if row["gain"] is None or row["vectors"] is None:
            raise ValueError(f"its row of cell {cell.number} does not say what its bank is worth.")
    elif row["file"] is not None:
        raise ValueError(f"its row of cell {cell.number} has both a bank and an error.")
