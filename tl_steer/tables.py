"""Tables for people: rich in a terminal, HTML in a notebook. Values in, text out; no model.

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

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tl_steer.band import Dose, DoseResponse
    from tl_steer.bank import Bank
    from tl_steer.interval import Interval
    from tl_steer.results import Generations
    from tl_steer.selection import Selection
    from tl_steer.sweepresult import SweepResult

_MOST_ROWS = 20


@dataclass(frozen=True)
class Sheet:
    """A table before it is drawn."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def bank_table(bank: "Bank", *, most: int = _MOST_ROWS) -> Sheet:
    """One row per vector: objective, size of the response, nearest other response, label."""
    from tl_steer.sphere import cosines

    similar = cosines(bank.responses.double()).abs()
    similar.fill_diagonal_(0.0)
    rows = []
    for i in range(min(len(bank), most)):
        near = int(similar[i].argmax()) if len(bank) > 1 else -1
        nearest = f"{float(similar[i, near]):.2f} (#{near})" if near >= 0 else ""
        size = float(bank.responses[i].norm())
        scores = (number(values[i].item()) for values in bank.scores.values())
        rows.append(
            (
                str(i),
                number(bank.objective[i].item()),
                number(size),
                nearest,
                *scores,
                bank.labels[i],
            )
        )
    left_out = len(bank) - len(rows)
    source = bank.provenance
    has_share = bank.radius_share == bank.radius_share  # NaN where the radius is no norm
    share = f" = {bank.radius_share:.3f} of the median residual norm" if has_share else ""
    note = (
        f"{source.method or 'no method'} on {source.model}; radius {bank.radius:.3g}{share} at "
        f"{bank.source}; target {bank.target}; seed {source.seed}"
        + (f"; {left_out} more not shown" if left_out > 0 else "")
    )
    return Sheet(
        title=f"Bank of {len(bank)} {'steering vectors' if bank.kind == 'additive' else bank.kind}",
        columns=("#", "objective", "|response|", "nearest |cos|", *bank.scores, "label"),
        rows=tuple(rows),
        note=note,
    )


def generations_table(generations: "Generations", *, width: int = 160) -> Sheet:
    """Steered continuations under the unsteered one, prompt by prompt."""
    rows = []
    for p, prompt in enumerate(generations.prompts):
        rows.append(("", "prompt", shorten(prompt, width)))
        rows.append(("", "unsteered", shorten(generations.unsteered[p], width)))
        for v, label in enumerate(generations.labels):
            rows.append((str(v), label, shorten(generations.texts[v][p], width)))
    return Sheet("Generations", ("#", "vector", "continuation"), tuple(rows))


def dose_table(found: "DoseResponse", *, width: int = 40) -> Sheet:
    """One row per radius and sign, and one of the random vectors at that radius."""
    rows = []
    for radius in found.radii:
        for control, sign in ((False, 1), (False, -1), (True, 1)):
            doses = found.at(radius, control=control, sign=sign)
            if doses:
                rows.append((f"{radius:.3g}", *_dose_row(found, doses, width)))
    note = (
        f"{found.source}, median residual norm {found.norm:.4g}; medians and quartiles over "
        f"vectors and prompts. Surprise in nats per token above the unsteered continuation's: "
        f"{found.fluent:.2f} for text sampled from the model, {found.salad:.2f} for the same text "
        f"shuffled."
    )
    columns = ("radius", "share", "", "KL", "surprise", "repeated", "changed", "distinct", "text")
    return Sheet("Dose and response", columns, tuple(rows), note)


def _dose_row(found: "DoseResponse", doses: tuple["Dose", ...], width: int) -> tuple[str, ...]:
    from tl_steer.band import distinct_share, quantile, share_of

    def spread(values: Sequence[float]) -> str:
        low, middle, high = (quantile(values, part) for part in (0.25, 0.5, 0.75))
        return f"{number(round(middle, 3))} ({number(round(low, 2))}–{number(round(high, 2))})"

    middle = sorted(doses, key=lambda dose: dose.surprise)[len(doses) // 2]
    return (
        f"{doses[0].share:.3f}",
        "random" if doses[0].control else ("+" if doses[0].sign > 0 else "-"),
        spread([dose.kl for dose in doses]),
        spread([dose.surprise for dose in doses]),
        f"{quantile([dose.repetition for dose in doses], 0.5):.0%}",
        f"{share_of(dose.changed for dose in doses):.0%}",
        f"{distinct_share(doses):.0%}",
        shorten(middle.text, width),
    )


def selection_table(found: "Selection") -> Sheet:
    """The winners, the best random vectors and the unsteered model, on both sets of prompts."""
    rows = [
        (str(row), found.labels[i], number(found.validation[i]), number(found.held_out[i]))
        for i, row in enumerate(found.winners)
    ]
    rows += [
        ("", "random", number(validation), number(held_out))
        for validation, held_out in zip(found.random_validation, found.random_held_out, strict=True)
    ]
    bare = number(found.unsteered_validation), number(found.unsteered_held_out)
    rows.append(("", "unsteered", *bare))
    played = ", ".join(f"{r.vectors} on {r.prompts}" for r in found.rounds)
    note = (
        f"Vectors on prompts, round by round: {played}. Winners were chosen on the validation "
        f"prompts, so only the {found.settings['held_out']} held-out prompts measure them."
    )
    return Sheet("Selection", ("#", "vector", "validation", "held out"), tuple(rows), note)


def audit_table(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """Alerts or requests of an audit log, oldest first."""
    from datetime import datetime

    drawn = []
    for row in rows:
        at = datetime.fromtimestamp(row["at"]).isoformat(" ", "seconds")
        if "kind" in row:
            vector = "" if row["vector"] is None else str(row["vector"])
            said = " ".join(str(token.get("text") or token["id"]) for token in row["tokens"])
            what = (row["kind"], vector, row["label"], said)
        else:
            scored = f"{row['tokens']} tokens" + (", alert" if row["alerted"] else "")
            what = ("request", "", "", scored)
        drawn.append((at, row.get("request", row["id"])[:8], number(row["p_value"]), *what))
    columns = ("at", "request", "p", "kind", "vector", "label", "tokens")
    return Sheet(f"Audit log: {len(drawn)} rows", columns, tuple(drawn))


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """With a heading; lists as JSON. Nothing that a spreadsheet would take for a formula."""
    file = io.StringIO()
    writer = csv.writer(file)
    if rows:
        writer.writerow(rows[0].keys())
    for row in rows:
        cells = (json.dumps(v) if isinstance(v, list) else v for v in row.values())
        writer.writerow(
            "'" + cell if isinstance(cell, str) and cell[:1] in tuple("=+-@") else cell
            for cell in cells
        )
    return file.getvalue()


def sweep_table(
    found: "SweepResult", *, metric: str | None = None, most: int = _MOST_ROWS
) -> Sheet:
    """One row per vector and dose, the most systematic first, and the random vectors' medians."""
    name = metric or found.metrics[0]
    columns = ["#", "dose", name, "> random", "prevalence", "consistency", "systematic", "q"]
    rows, left_out = [], 0
    for dose in found.doses:
        ordered = sorted(found.evidence(name, dose=dose), key=lambda e: -_known(e.systematicness))
        left_out += max(0, len(ordered) - most)
        for one in ordered[:most]:
            spans = (one.prevalence, one.consistency, one.systematicness)
            cells = (_span(one.effect), number(round(one.superiority.value, 3)), *map(_span, spans))
            who = (str(one.vector), f"{dose:g}")
            rows.append((*who, *cells, number(one.q), one.verdict, one.label))
        if any(who.kind == "random" for who in found.who):
            random = (number(round(value, 3)) for value in found.of_random(name, dose=dose))
            rows.append(("", f"{abs(dose):g}", "", "", *random, "", "random", ""))
    failed = len(found.failures())
    note = (
        f"{found.prompts} prompts{'' if found.finished else ', not finished'}; effect: {name}. "
        "Estimates with 95% intervals; prevalence is the share of prompts above 95% of the random "
        "vectors, systematicness is prevalence times consistency."
        + (f" {failed} cells failed." if failed else "")
        + (f" {left_out} more rows not shown." if left_out else "")
    )
    empty = {"dose"} if len(found.doses) == 1 else set()
    empty |= set() if any(row[-1] for row in rows) else {"label"}
    return _without(empty, Sheet("Sweep", (*columns, "verdict", "label"), tuple(rows), note))


def _without(names: set[str], sheet: Sheet) -> Sheet:
    """A table without columns that say nothing."""
    kept = [i for i, column in enumerate(sheet.columns) if column not in names]
    rows = tuple(tuple(row[i] for i in kept) for row in sheet.rows)
    return Sheet(sheet.title, tuple(sheet.columns[i] for i in kept), rows, sheet.note)


def _known(interval: "Interval") -> float:
    return -math.inf if math.isnan(interval.value) else interval.value


def _span(interval: "Interval") -> str:
    if math.isnan(interval.value):
        return number(interval.value)
    low, high = (number(round(value, 2)) for value in (interval.low, interval.high))
    return f"{number(round(interval.value, 3))} ({low}–{high})"


def draw(sheet: Sheet) -> Table:
    """As a rich table."""
    table = Table(title=Text(sheet.title), caption=Text(sheet.note), title_justify="left")
    table.caption_justify = "left"
    for column in sheet.columns:
        table.add_column(column, overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def to_text(sheet: Sheet, *, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(draw(sheet))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text).rstrip()


def to_html(sheet: Sheet) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        style = "text-align:left;white-space:pre-wrap"
        return "".join(
            f'<{tag} style="{style}">{html.escape(plain(value))}</{tag}>' for value in values
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in sheet.rows)
    note = f"<figcaption>{html.escape(plain(sheet.note))}</figcaption>" if sheet.note else ""
    return (
        f"<figure><strong>{html.escape(plain(sheet.title))}</strong><table><thead>"
        f"<tr>{cells('th', sheet.columns)}</tr></thead><tbody>{body}</tbody></table>{note}</figure>"
    )


def number(value: float) -> str:
    """Three or four significant digits, and a dash for what was never measured."""
    return "–" if math.isnan(value) else f"{value:.4g}"


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters."""
    line = plain(text).replace("\n", "⏎")
    return line if len(line) <= width else line[: width - 1] + "…"


def plain(text: str) -> str:
    """Printable text: control, bidirectional and surrogate characters become their escapes.

    A model can emit terminal escape sequences and text that reorders what surrounds it.
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )
