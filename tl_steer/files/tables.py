"""Tables for people: rows as data in, rich text for a terminal or HTML for a notebook out.

A result that wants to be shown says its rows (`Tabled.table`); nothing here knows who asks.
Everything a model or a file said is shown as text: markup and control characters do nothing.
"""

import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tl_steer.files.draws import draws_kept
from tl_steer.files.text import one_line, plain as plain, shorten as shorten

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 20
# What spreadsheets take for the beginning of a formula, in both widths.
_FORMULA = tuple("=+-@＝＋－＠")


@dataclass(frozen=True)
class Sheet:
    """A table before it is drawn."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def without(self, names: set[str]) -> "Sheet":
        """The same without some of the columns."""
        kept = [i for i, column in enumerate(self.columns) if column not in names]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return Sheet(self.title, tuple(self.columns[i] for i in kept), rows, self.note)


class Tabled:
    """Prints as a table, in a terminal and in a notebook."""

    def table(self) -> Sheet:
        """What is shown."""
        raise TypeError(f"{type(self).__name__} must define table()")

    def __repr__(self) -> str:
        return to_text(self.table())

    def _repr_html_(self) -> str:
        return to_html(self.table())


def draw(sheet: Sheet) -> "Table":
    """As a rich table."""
    with draws_kept():  # late: not everybody who imports a result prints one
        from rich.table import Table
        from rich.text import Text

    title, note = Text(one_line(sheet.title)), Text(one_line(sheet.note))
    table = Table(title=title, caption=note, title_justify="left")
    table.caption_justify = "left"
    for column in sheet.columns:
        table.add_column(Text(one_line(column)), overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table


def to_text(sheet: Sheet, *, width: int = 120) -> str:
    """A table for a terminal, `width` characters wide."""
    with draws_kept():
        from rich.console import Console

    # In a notebook rich would display the table itself, whatever file it was given.
    console = Console(file=io.StringIO(), width=width, color_system=None, force_jupyter=False)
    console.print(draw(sheet))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text).rstrip()


def to_html(sheet: Sheet) -> str:
    """A table for a notebook; cells are text, whatever is in them."""

    def cells(tag: str, values: Sequence[str]) -> str:
        style = "text-align:left;white-space:pre-wrap"
        return "".join(
            f'<{tag} style="{style}">{html.escape(one_line(value))}</{tag}>' for value in values
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in sheet.rows)
    note = f"<figcaption>{html.escape(plain(sheet.note))}</figcaption>" if sheet.note else ""
    return (
        f"<figure><strong>{html.escape(plain(sheet.title))}</strong><table><thead>"
        f"<tr>{cells('th', sheet.columns)}</tr></thead><tbody>{body}</tbody></table>{note}</figure>"
    )


def number(value: float | None) -> str:
    """Three or four significant digits, and a dash for what was never measured."""
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """With a heading; lists as JSON. Nothing that a spreadsheet would take for a formula, and no
    control characters."""
    file = io.StringIO()
    writer = csv.writer(file)
    if rows:
        writer.writerow(map(_cell, rows[0].keys()))
    for row in rows:
        writer.writerow(map(_cell, row.values()))
    return file.getvalue()


def _cell(value: Any) -> Any:
    text = json.dumps(value) if isinstance(value, (list, dict)) else value
    if not isinstance(text, str):
        return text
    text = plain(text)
    return "'" + text if text.startswith("\t") or text.lstrip()[:1] in _FORMULA else text
