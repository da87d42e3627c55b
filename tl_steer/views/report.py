"""The report: a bank and what is known of it as one file that opens offline.

results -> one HTML page: a table of vectors, a page for each, drawn when it is opened
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.banks.generations import Generations
from tl_steer.banks.selection import Selection
from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed
from tl_steer.files.tables import number, plain
from tl_steer.files.write import write_beside
from tl_steer.inspection.result import Inspection
from tl_steer.radii.band import DoseResponse
from tl_steer.sweeps.result import SweepResult
from tl_steer.views import overview as overview_of
from tl_steer.views.alerts import alert_rows, alerts_view
from tl_steer.views.attention import attention_change
from tl_steer.views.bank import bank_map, selection_scores
from tl_steer.views.logits import logit_attribution, logit_change, token_log_probs
from tl_steer.views.page import document, embedded
from tl_steer.views.rows import Row, Rows, table_rows
from tl_steer.views.stream import residual_response, steered_tokens
from tl_steer.views.sweep import sweep_view
from tl_steer.views.texts import cut, dose_response, marked
from tl_steer.views.view import View

# Bytes of data that a report may hold, and how many heads a vector's page tries to show within it.
_MOST, _HEADS = 22_000_000, (8, 4, 2, 1, 0)


@dataclass(frozen=True, eq=False)
class Report:
    """One page. `save` it and send it; it needs nothing else.

    Attributes:
        title: its heading.
        overview: what the first page shows, as JSON has it.
        pages: what each vector's page shows, by the vector's number in the bank.
        notes: what was left out.
        views: those of one's own, or of ours, that were given beside the results.
    """

    title: str
    overview: dict[str, Any]
    pages: dict[int, dict[str, Any]]
    notes: tuple[str, ...] = ()
    views: tuple[View, ...] = ()

    def html(self) -> str:
        return document(
            self.title,
            {"overview": self.overview},
            start="TlSteer.report();",
            circuitsvis=any(page["inspections"] for page in self.pages.values())
            or any(view.circuitsvis for view in self.views),
            extra=("report.js",),
            drawings=[view.drawing for view in self.views if view.drawing],
            later={f"vector-{vector}": page for vector, page in self.pages.items()},
        )

    def save(self, path: str | Path) -> Path:
        """Write the page."""
        write_beside(Path(path), self.html().encode("utf-8"))
        return Path(path)

    def __repr__(self) -> str:
        inspected = sum(bool(page["inspections"]) for page in self.pages.values())
        lines = [
            f"Report: {plain(self.title)}",
            f"  {len(self.pages)} vectors, {inspected} of them inspected; .save(path) writes it",
            *(f"  {note}" for note in self.notes),
        ]
        return "\n".join(lines)


@typed
def report(
    bank: Bank,
    *,
    inspections: Sequence[Inspection] = (),
    generations: Generations | None = None,
    control: Generations | None = None,
    doses: DoseResponse | None = None,
    selection: Selection | None = None,
    sweep: SweepResult | Rows | None = None,
    alerts: str | Path | Rows | None = None,
    views: Sequence[View] = (),
    title: str = "",
) -> Report:
    """Put results about one bank into one page.

    Args:
        inspections: of the bank's vectors, on one prompt each; any number, of any of the vectors.
        generations: texts under all vectors of the bank, in the bank's order.
        control: texts under random vectors on the same prompts (`generate` with a `random_bank`).
            Without them nobody can tell what a change of text means.
        doses, selection: as `dose_response` and `halve` give them.
        sweep: what `sweep` found, or a table as `sweep_view` takes it.
        alerts: an audit log's path or alerts, as `alerts_view` takes them; those that name a vector
            are on its page too.
        views: further views, each under its title: `own_view`s, or any of `tl_steer.views`.
        title: the heading.

    Raises:
        SettingError: results that are not about this bank.

    A report of 64 inspected vectors stays under 25 MB: where they would not, fewer heads'
    attention patterns are shown, and the report says so.
    """
    _refuse(bank, inspections, generations, control)
    if isinstance(sweep, SweepResult) and sweep.asked["bank"] != bank.digest():
        raise SettingError("The sweep is of another bank: pass one that this bank made.")
    swept = None if sweep is None else table_rows(sweep)
    alerted, notes = _raised_by(bank, alerts)
    title = title or f"{len(bank)} steering vectors of {bank.provenance.model}"
    for heads in _HEADS:
        pages = _pages(bank, inspections, generations, control, swept, alerted, heads)
        if sum(len(embedded(page)) for page in pages.values()) <= _MOST:
            break
    if heads < _HEADS[0] and inspections:
        notes.append(f"attention patterns of {heads} heads a vector, so that the file stays small")
    overview = {
        "title": title,
        "provenance": overview_of.provenance(bank),
        "facts": overview_of.facts(bank, generations, control),
        "rows": overview_of.rows(bank, inspections, generations),
        "scores": list(bank.scores),
        "controls": overview_of.controls(control),
        "unsteered": cut(generations.unsteered[0]) if generations else "",
        "prompt": overview_of.prompt(inspections, generations),
        "sections": [*_sections(bank, doses, selection, swept, alerted), *_further(views)],
        "notes": notes,
    }
    return Report(title, overview, pages, tuple(notes), tuple(views))


def _refuse(
    bank: Bank,
    inspections: Sequence[Inspection],
    generations: Generations | None,
    control: Generations | None,
) -> None:
    for seen in inspections:
        if not _is_of(seen, bank):
            raise SettingError(
                f"This inspection is of vectors {seen.vectors} at {seen.source} of another bank or "
                f"model ({seen.model}); this one has {len(bank)} at {bank.source} and was made on "
                f"{bank.provenance.model}. Inspect this bank: inspect(model, bank, prompt)."
            )
    if generations is not None and generations.numbers != bank.numbers:
        raise SettingError(
            f"The generations are of {len(generations)} vectors and the bank has {len(bank)}, or "
            "they are others: pass those of the whole bank, in its order."
        )
    if control is not None and (generations is None or control.prompts != generations.prompts):
        raise SettingError("The control's texts must continue the same prompts as the generations.")


def _is_of(seen: Inspection, bank: Bank) -> bool:
    if seen.bank:
        return seen.bank == bank.digest()
    # Version 0.1.0 did not say of which bank; then what it did say must agree.
    names = (bank.source.name, bank.target.name, bank.provenance.model)
    return (seen.source, seen.target, seen.model) == names and set(seen.vectors) <= set(
        bank.numbers
    )


def _pages(
    bank: Bank,
    inspections: Sequence[Inspection],
    generations: Generations | None,
    control: Generations | None,
    sweep: list[Row] | None,
    alerts: list[Row],
    heads: int,
) -> dict[int, dict[str, Any]]:
    swept = {str(row.get("vector")): row for row in sweep or ()}
    return {
        vector: {
            "texts": _texts(generations, row),
            "controls": _texts_of(control),
            "inspections": [
                {"prompt": cut(seen.prompt), "views": _views(seen, vector, heads)}
                for seen in inspections
                if vector in seen.vectors
            ],
            "sweep": [[name, _cell(value)] for name, value in swept.get(str(vector), {}).items()],
            "alerts": _alerts_of(alerts, vector),
        }
        for row, vector in enumerate(bank.numbers)
    }


def _raised_by(bank: Bank, alerts: str | Path | Rows | None) -> tuple[list[Row], list[str]]:
    """A log's alerts, but those that another bank raised; and what is to be said of it."""
    if alerts is None:
        return [], []
    rows, own = alert_rows(alerts), ("", bank.digest())
    kept = [row for row in rows if row.get("bank", "") in own]
    notes = []
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} alerts that another bank raised are left out")
    if not kept:
        notes.append("no alerts of this bank")
    return kept, notes


def _alerts_of(alerts: list[Row], vector: int) -> dict[str, Any] | None:
    """Alerts that name a vector; a table of tokens names none as a whole."""
    named = [row for row in alerts if "trace" in row and row["vector"] == vector]
    return dict(alerts_view(named).data) if named else None


def _views(seen: Inspection, vector: int, heads: int) -> list[dict[str, Any]]:
    views: list[View] = [
        logit_change(seen, vector),
        attention_change(seen, vector, heads=heads),
        residual_response(seen, vector),
        logit_attribution(seen, vector),
        token_log_probs(seen, vector),
        steered_tokens(seen, vector),
    ]
    return [{"kind": v.kind, "title": v.title, "data": v.data} for v in views]


def _texts(found: Generations | None, row: int) -> list[dict[str, Any]]:
    if found is None:
        return []
    return [
        {
            "prompt": cut(prompt),
            "unsteered": cut(base),
            "pieces": marked(cut(base), cut(text)),
        }
        for prompt, base, text in zip(found.prompts, found.unsteered, found.texts[row], strict=True)
    ]


def _texts_of(control: Generations | None) -> list[list[Any]]:
    """Of every prompt, up to four random vectors' texts."""
    if control is None:
        return []
    return [
        [marked(cut(base), cut(row[p])) for row in control.texts[:4]]
        for p, base in enumerate(control.unsteered)
    ]


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _sections(
    bank: Bank,
    doses: DoseResponse | None,
    selection: Selection | None,
    sweep: list[Row] | None,
    alerts: list[Row],
) -> list[dict[str, Any]]:
    """What is about the whole bank."""
    views: list[tuple[str, View]] = []
    if len(bank) > 1:
        views.append(("map", bank_map(bank)))
    if doses is not None:
        views.append(("dose", dose_response(doses)))
    if selection is not None:
        views.append(("selection", selection_scores(selection)))
    if sweep is not None:
        views.append(("sweep", sweep_view(sweep)))
    if alerts:
        views.append(("alerts", alerts_view(alerts)))
    return [
        {"name": name, "kind": view.kind, "title": view.title, "data": view.data}
        for name, view in views
    ]


def _further(views: Sequence[View]) -> list[dict[str, Any]]:
    """What was given beside the results, by number: a title is no address."""
    return [
        {"name": f"view-{i}", "kind": view.kind, "title": view.title, "data": view.data}
        for i, view in enumerate(views, start=1)
    ]
