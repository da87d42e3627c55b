"""Tables of others, as rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.sweeps.result import SweepResult

Row = Mapping[str, Any]
Rows = Iterable[Row] | Mapping[str, Sequence[Any]] | Any


def table_rows(table: Rows) -> list[Row]:
    """A table's rows, of whichever kind it is."""
    if isinstance(table, SweepResult):
        table = table.rows()
    if hasattr(table, "to_dict") and hasattr(table, "columns"):
        frame: Any = table
        table = {str(name): list(frame[name]) for name in frame.columns}
    if isinstance(table, Mapping):
        columns = {str(name): list(values) for name, values in table.items()}
        lengths = {len(values) for values in columns.values()}
        if len(lengths) > 1:
            raise SettingError(f"Columns of one table have different lengths: {sorted(lengths)}.")
        count = lengths.pop() if lengths else 0
        table = [{name: values[i] for name, values in columns.items()} for i in range(count)]
    rows = rows_of(table)
    if not rows:
        raise SettingError("The table has no rows, so there is nothing to show.")
    return rows


def rows_of(table: object) -> list[Row]:
    """A sequence of mappings, one a row.

    Raises:
        SettingError: something else.
    """
    if isinstance(table, Iterable) and not isinstance(table, (str, bytes, Tensor)):
        rows = list(table)
        if all(isinstance(row, Mapping) for row in rows):
            return [dict(row) for row in rows]
    raise SettingError(
        f"A table is {repr(table)[:200]}; expected a DataFrame, a mapping of columns, or a "
        "sequence of mappings, one for each row."
    )


def as_number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
