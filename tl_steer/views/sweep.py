"""What a sweep found of every vector."""

import math
from typing import Any

from tl_steer.errors import SettingError
from tl_steer.files.tables import number
from tl_steer.files.text import capped
from tl_steer.sweeps.result import SweepResult
from tl_steer.views.rows import Row, Rows, as_number, table_rows
from tl_steer.views.view import View

# Vectors that a page draws, and what makes a text column one of categories.
_MOST, _CATEGORIES = 500, 12
_TEXTS = ("vector", "label", "reason")


def sweep_view(table: SweepResult | Rows, *, title: str = "Sweep") -> View:
    """Prevalence, consistency or any other number per vector, with its interval.

    Args:
        table: what `sweep` gave, of which the random vectors' medians are drawn too; or any table:
            rows as mappings, a mapping of columns, or a data frame. `vector` names the row, and
            `label` may; every other number is a quantity; `NAME_low` and `NAME_high` are its
            interval; a text column of 2 to 12 values, such as a sweep's `verdict`, is a category
            that rows can be grouped by. Of more than 500 rows, those that are largest in the first
            quantity.

    Raises:
        SettingError: no rows, or none of its columns is a number.
    """
    rows = table_rows(table)
    names = _quantities(rows[0])
    if not names:
        raise SettingError(f"No column of {list(rows[0])} holds numbers, so nothing can be shown.")
    kept = _largest(rows, names[0])
    random = _of_random(table)
    data = {
        "vectors": [capped(str(row.get("vector", i))) for i, row in kept],
        "labels": [capped(str(row.get("label", ""))) for _, row in kept],
        "quantities": [
            {"name": name, "values": [_span(row, name) for _, row in kept]}
            | {"random": random.get(name)}
            for name in names
        ],
        "categories": _categories([row for _, row in kept]),
        "rests_on": capped(str(rows[0].get("metric", ""))) if "verdict" in rows[0] else "",
        "left_out": len(rows) - len(kept),
    }
    lines = tuple(
        f"{name}: {number(min(values))} to {number(max(values))}{_beside(random.get(name))}"
        for name in names
        if (values := [v for row in rows if (v := as_number(row.get(name))) is not None])
    )
    return View("sweep", title, data, lines, 220 + 26 * len(kept))


def _quantities(row: Row) -> list[str]:
    return [
        name
        for name, value in row.items()
        if name not in _TEXTS
        and not name.endswith(("_low", "_high"))
        and not isinstance(value, str)
        and as_number(value) is not None
    ]


def _largest(rows: list[Row], name: str) -> list[tuple[int, Row]]:
    """Those that are drawn, with their places, in the order of the table."""

    def size(place: int) -> float:
        value = as_number(rows[place].get(name))
        return -math.inf if value is None or math.isnan(value) else value

    places = sorted(range(len(rows)), key=size, reverse=True)[:_MOST]
    return [(place, rows[place]) for place in sorted(places)]


def _span(row: Row, name: str) -> list[float | None]:
    return [as_number(row.get(name + end)) for end in ("", "_low", "_high")]


def _of_random(table: Any) -> dict[str, float]:
    """The random vectors' medians; a vector like a random one exceeds these half of the time."""
    if not isinstance(table, SweepResult):
        return {}
    names = ("prevalence", "consistency", "systematicness")
    found = dict(zip(names, table.of_random(), strict=True))
    known = {name: value for name, value in found.items() if not math.isnan(value)}
    return known | ({"superiority": 0.5} if known else {})


def _categories(rows: list[Row]) -> list[dict[str, Any]]:
    """Text columns of a few values."""
    found = []
    for name, value in rows[0].items():
        if name in _TEXTS or not isinstance(value, str):
            continue
        texts = [capped(str(row.get(name, ""))) for row in rows]
        if 1 < len(set(texts)) <= _CATEGORIES:
            found.append({"name": name, "values": texts})
    return found


def _beside(random: float | None) -> str:
    return "" if random is None else f" (random vectors: {number(random)})"
