"""How sensitive a model is between every source and every target: a heat map of pairs."""

import math
from collections.abc import Sequence
from typing import Any

from tl_steer.elicitation.scan import Pair, Scan
from tl_steer.elicitation.store import Store
from tl_steer.errors import SettingError
from tl_steer.files.tables import number
from tl_steer.files.text import capped
from tl_steer.views.rows import Row, Rows, as_number, table_rows
from tl_steer.views.view import View

# What a grid's pairs are shown by first, and settings in which the cells of one pair differ.
_FIRST = ("gain", "objective", "response")
_SETTINGS = ("radius", "method", "seed", "prompts")
# Numbers of a grid's index that say nothing of a pair.
_LEFT_OUT = {"cell", "vectors", "length", "share"}
_MOST = 200


def scan_view(found: Scan | Store | Rows, *, title: str = "Sensitivity of all pairs") -> View:
    """A heat map: sources down, targets across, and how far activations move between them.

    Args:
        found: what `scan` or `grid` gave; or any table (see `sweep_view`) with `source` and
            `target`, of which every other number is a quantity. Cells of one pair are averaged;
            where they differ in radius, method, seed or prompts, the page lets one choose.

    Raises:
        SettingError: no rows, no pairs, no number, or more than 200 sources or targets.

    A grid's `gain` is the best of many vectors: compare pairs, and read the size of it beside
    `random`.
    """
    rows = _rows(found)
    missing = [name for name in ("source", "target") if name not in rows[0]]
    if missing:
        raise SettingError(f"The table has {list(rows[0])}; expected columns source and target.")
    names = _quantities(rows)
    across, down = _ends(rows, "target"), _ends(rows, "source")
    settings = [
        {"name": name, "values": values}
        for name in _SETTINGS
        if len(values := _ends(rows, name) if name in rows[0] else []) > 1
    ]
    chosen = [str(each["name"]) for each in settings]
    data = {
        "sources": [capped(name) for name in down],
        "targets": [capped(name) for name in across],
        "quantities": names,
        "settings": settings,
        "cells": [
            {
                "at": [down.index(str(row["source"])), across.index(str(row["target"]))],
                "of": [str(row.get(name)) for name in chosen],
                "values": [as_number(row.get(name)) for name in names],
                "error": capped(str(row.get("error") or ""), 400),
            }
            for row in rows
        ],
    }
    lines = (f"{len(down)} sources, {len(across)} targets", *_best(rows, names[0]))
    return View("scan", title, data, lines, 200 + 30 * len(down))


def _rows(found: Scan | Store | Rows) -> list[Row]:
    if isinstance(found, Scan):
        return [_of_pair(pair) for pair in found.pairs]
    if isinstance(found, Store):
        return table_rows([{k: v for k, v in r.items() if k not in _LEFT_OUT} for r in found.rows])
    return table_rows(found)


def _of_pair(pair: Pair) -> Row:
    row: dict[str, Any] = {"source": pair.source, "target": pair.target, "gain": pair.gain}
    read = {} if math.isnan(pair.texts) else {"texts": pair.texts}
    return row | {"directions": pair.directions} | read


def _quantities(rows: Sequence[Row]) -> list[str]:
    """Columns that hold a number somewhere; those that are meant first are first."""
    known = {"source", "target", "file", "sha256", "error", *_SETTINGS}
    every = dict.fromkeys(name for row in rows for name in row if name not in known)
    found = [
        name
        for name in every
        if any(
            as_number(row.get(name)) is not None and not isinstance(row[name], str) for row in rows
        )
    ]
    if not found:
        raise SettingError(f"No column of {list(rows[0])} holds numbers, so nothing can be shown.")
    return [*(name for name in _FIRST if name in found), *(n for n in found if n not in _FIRST)]


def _ends(rows: Sequence[Row], name: str) -> list[str]:
    """The different values, in the order of the rows; hook points by their layers."""
    found = list(dict.fromkeys(str(row[name]) for row in rows))
    if name in ("source", "target"):
        if len(found) > _MOST:
            raise SettingError(f"There are {len(found)} of {name}; a map shows {_MOST} at most.")
        found = sorted(found, key=_layer)
    return found


def _layer(point: str) -> tuple[int, str]:
    digits = point.removeprefix("blocks.").partition(".")[0]
    return (int(digits), point) if digits.isdecimal() and len(digits) < 9 else (10**9, point)


def _best(rows: Sequence[Row], name: str) -> list[str]:
    """The pair with most, for a terminal."""
    known = [(v, row) for row in rows if (v := as_number(row.get(name))) is not None and v == v]
    if not known:
        return []
    value, row = max(known, key=lambda each: each[0])
    return [f"largest {name}: {number(value)}, from {row['source']} to {row['target']}"]
