"""What a sweep found of every vector."""

from tl_steer.errors import SettingError
from tl_steer.files.tables import number
from tl_steer.files.text import capped
from tl_steer.sweeps.result import SweepResult
from tl_steer.views.rows import Rows, as_number, table_rows
from tl_steer.views.view import View


def sweep_view(table: SweepResult | Rows, *, title: str = "Sweep") -> View:
    """Prevalence, consistency or any other number per vector, with its interval.

    Args:
        table: what `sweep` gave; or any table: rows as mappings, a mapping of columns, or a data
            frame. `vector` names the row, and `label` may; every other number is a quantity;
            `NAME_low` and `NAME_high` are its interval.

    Raises:
        SettingError: no rows, or none of its columns is a number.
    """
    rows = table_rows(table)
    names = [
        name
        for name in rows[0]
        if name not in ("vector", "label")
        and not name.endswith(("_low", "_high"))
        and not isinstance(rows[0][name], str)
        and as_number(rows[0][name]) is not None
    ]
    if not names:
        raise SettingError(f"No column of {list(rows[0])} holds numbers, so nothing can be shown.")
    quantities = [
        {
            "name": name,
            "values": [
                [as_number(row.get(name + end)) for end in ("", "_low", "_high")] for row in rows
            ],
        }
        for name in names
    ]
    data = {
        "vectors": [capped(str(row.get("vector", i))) for i, row in enumerate(rows)],
        "labels": [capped(str(row.get("label", ""))) for row in rows],
        "quantities": quantities,
    }
    lines = tuple(
        f"{name}: {number(min(values))} to {number(max(values))}"
        for name in names
        if (values := [v for row in rows if (v := as_number(row.get(name))) is not None])
    )
    return View("sweep", title, data, lines, 160 + 26 * len(rows))
