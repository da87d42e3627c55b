"""The report: a bank and what is known of it as one file that opens offline.

results -> one HTML page: a table of vectors, a page for each, drawn when it is opened
"""

from collections.abc import Mapping, Sequence
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
from tl_steer.inspection.generated import Continuations
from tl_steer.inspection.result import Inspection
from tl_steer.inspection.strength import Strengths
from tl_steer.monitoring.panel import Panel
from tl_steer.radii.band import DoseResponse
from tl_steer.sweeps.result import SweepResult
from tl_steer.views import overview as overview_of
from tl_steer.views.alerts import alert_rows, alerts_view
from tl_steer.views.bank import bank_map, selection_scores
from tl_steer.views.blocks import Words
from tl_steer.views.fits import refuse, refuse_control
from tl_steer.views.monitor import monitor_view
from tl_steer.views.notes import block as notes_block
from tl_steer.views.page import document
from tl_steer.views.panels import continued, control_panels, drawn, packed, paired, panels
from tl_steer.views.quotes import hidden
from tl_steer.views.raised import digests_of
from tl_steer.views.rows import Row, Rows, table_rows
from tl_steer.views.strengths import strengths as strengths_view
from tl_steer.views.sweep import sweep_view
from tl_steer.views.texts import cut, dose_response
from tl_steer.views.view import View, ending

# Characters of blocks that a report may hold, so that with all else it stays under 15 MB.
_MOST = 13_500_000


@dataclass(frozen=True, eq=False)
class Report:
    """One page. `save` it and send it; it needs nothing else.

    Attributes:
        title: its heading.
        overview: what the first page shows, as JSON has it.
        marks: what the bank says of its vectors already, which notes are written beside.
        blocks: all else, packed (`views/blocks.py`), by name.
        notes: what was left out.
        views: those of one's own, or of ours, that were given beside the results.
    """

    title: str
    overview: dict[str, Any]
    marks: dict[str, Any]
    blocks: Mapping[str, str]
    notes: tuple[str, ...] = ()
    views: tuple[View, ...] = ()

    def html(self, *, live: Mapping[str, Any] | None = None) -> str:
        """The page; with `live`, one that a server gives, and what it has to know of it, the notes
        that it keeps among that."""
        kept = {} if live is None else {"notes": live["notes"]}
        return document(
            self.title,
            {"overview": self.overview, "notes": self.marks | kept},
            start="TlSteer.report();",
            circuitsvis=live is not None
            or any(row["seen"] for row in self.overview["rows"])
            or any(view.circuitsvis for view in self.views),
            drawings=[view.drawing for view in self.views if view.drawing],
            later=self.blocks,
            live=live,
        )

    def save(self, path: str | Path) -> Path:
        """Write the page, an `.html` file; its figures are saved from the page, one by one.

        Raises:
            SettingError: the path ends with anything else.
            WriteError: the file cannot be written.
        """
        ending(path, (".html",))
        write_beside(Path(path), self.html().encode("utf-8"))
        return Path(path)

    def __repr__(self) -> str:
        rows = self.overview["rows"]
        inspected = sum(bool(row["seen"]) for row in rows)
        lines = [
            f"Report: {plain(self.title)}",
            f"  {len(rows)} vectors, {inspected} of them inspected; .save(path) writes it",
            *(f"  {note}" for note in self.notes),
        ]
        return "\n".join(lines)


@typed
def report(
    bank: Bank,
    *,
    inspections: Sequence[Inspection] = (),
    control_inspections: Sequence[Inspection] = (),
    generations: Generations | None = None,
    control: Generations | None = None,
    doses: DoseResponse | None = None,
    selection: Selection | None = None,
    strengths: Sequence[Strengths] = (),
    continuations: Sequence[Continuations] = (),
    sweep: SweepResult | Rows | None = None,
    alerts: str | Path | Rows | None = None,
    monitor: Panel | None = None,
    views: Sequence[View] = (),
    title: str = "",
) -> Report:
    """Put results about one bank into one page.

    Args:
        inspections: of the bank's vectors, on one prompt each; any number, of any of the vectors.
        control_inspections: of random vectors on the same prompts (`inspect` with a `random_bank`):
            the band that numbers are read against, and two of them to compare with.
        generations: texts under all vectors of the bank, in the bank's order.
        control: texts under random vectors on the same prompts (`generate` with a `random_bank`).
            Without them nobody can tell what a change of text means.
        strengths, continuations: of the bank's vectors, on one prompt each
            (`inspection.strengths`, `inspection.continuations`).
        doses, selection: as `dose_response` and `halve` give them.
        sweep: what `sweep` found, or a table as `sweep_view` takes it.
        alerts: an audit log's path or alerts, as `alerts_view` takes them; those that name a vector
            are on its page too. A monitor of some of the bank's vectors (`fit(only=...)`) raises
            the bank's alerts; what another bank raised is left out, which the page says.
        monitor: one of this bank or of some of its vectors: its thresholds and calibration, and
            with an audit log as `alerts` the traffic against them. Scores of requests:
            `views=[monitor_view(...)]`.
        views: further views, each under its title: `own_view`s, or any of `tl_steer.views`.
        title: the heading.

    Raises:
        SettingError: results that are not about this bank.

    A report of 256 vectors inspected on a prompt of 38 tokens stays under 15 MB. Where one would
    not, it shows fewer of the lens's words, then fewer heads' attention patterns, and says so.
    """
    known = digests_of(bank, alerts, monitor)
    if monitor is not None and monitor.bank.digest() not in known:
        raise SettingError("The monitor is of another bank: pass one that was fitted with this.")
    measured = [*inspections, *strengths, *continuations]
    unchecked = refuse(bank, *measured, generations, doses, selection, sweep)
    unchecked += refuse_control(bank, *control_inspections, control)
    _refuse_other_prompts(inspections, control_inspections, generations, control)
    swept = None if sweep is None else table_rows(sweep)
    alerted, notes = _raised_by(known, alerts)
    title = title or f"{len(bank)} steering vectors of {bank.provenance.model}"
    prompts = overview_of.prompts(measured, generations)
    seen = paired(inspections, control_inspections, prompts)
    words, around = Words(), hidden(inspections)
    told, fewer = continued(continuations, prompts, words, most=_MOST // 3)
    blocks, left_out = panels(seen, words, most=_MOST - sum(map(len, told.values())))
    blocks |= told
    blocks |= _of_tables(bank, swept, alerted, words)
    whole = sweep if isinstance(sweep, SweepResult) else swept
    sections = _sections(bank, generations, doses, selection, whole, alerted)
    if monitor is not None:
        sections.append(("monitor", _watched(monitor, alerts, alerted)))
    sections += _further(views)
    blocks |= {f"section-{name}": packed(view, words) for name, view in sections}
    blocks["texts"] = words.packed(overview_of.texts(bank, generations, control))
    blocks |= control_panels(seen, words)
    blocks |= drawn(strengths, "strengths", strengths_view, prompts, words)
    notes = [*notes, *unchecked, *left_out, *fewer]
    overview: dict[str, Any] = {
        "title": title,
        "provenance": overview_of.provenance(bank),
        "facts": overview_of.facts(bank, generations, control),
        "rows": overview_of.rows(bank, seen, generations, around),
        "scores": list(bank.scores),
        "quoted": overview_of.most_quoted(control, around),
        "bands": {str(one.prompt): one.band() for one in seen if one.control},
        "prompts": [cut(text) for text in prompts],
        "sections": [{"name": name, "title": view.title} for name, view in sections],
        "notes": notes,
    }
    # The table of words comes first: no other block can be read without it.
    blocks = {"words": words.table(), **blocks}
    return Report(title, overview, notes_block(bank), blocks, tuple(notes), tuple(views))


def _refuse_other_prompts(
    inspections: Sequence[Inspection],
    control_inspections: Sequence[Inspection],
    generations: Generations | None,
    control: Generations | None,
) -> None:
    if control is not None and (generations is None or control.prompts != generations.prompts):
        raise SettingError("The control's texts must continue the same prompts as the generations.")
    known = {seen.prompt for seen in inspections}
    for seen in control_inspections:
        if seen.prompt not in known:
            raise SettingError(
                f"A control inspection is of {seen.prompt[:80]!r}, on which no vector of the bank "
                "was inspected: inspect both on the same prompts."
            )


def _of_tables(
    bank: Bank, sweep: list[Row] | None, alerts: list[Row], words: Words
) -> dict[str, str]:
    """What tables say of each vector, as panels."""
    blocks = {}
    for row in sweep or ():
        facts = [[name, _cell(value)] for name, value in row.items()]
        shown = {"kind": "sweep_row", "title": "Sweep", "data": facts}
        blocks[f"v{row.get('vector')}.sweep_row"] = words.packed(shown)
    for vector in bank.numbers:
        # A table of tokens names no vector as a whole.
        if named := [row for row in alerts if "trace" in row and row["vector"] == vector]:
            blocks[f"v{vector}.alerts"] = packed(alerts_view(named), words)
    return blocks


def _raised_by(known: set[str], alerts: str | Path | Rows | None) -> tuple[list[Row], list[str]]:
    """A log's alerts, but those that another bank raised; and what is to be said of it."""
    if alerts is None:
        return [], []
    rows = alert_rows(alerts)
    kept = [row for row in rows if row.get("bank", "") in ("", *known)]
    notes = []
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} alerts that another bank raised are left out")
    if not kept:
        notes.append("no alerts of this bank")
    return kept, notes


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _sections(
    bank: Bank,
    generations: Generations | None,
    doses: DoseResponse | None,
    selection: Selection | None,
    sweep: SweepResult | list[Row] | None,
    alerts: list[Row],
) -> list[tuple[str, View]]:
    """What is about the whole bank."""
    views: list[tuple[str, View]] = []
    if len(bank) > 1:
        views.append(("map", bank_map(bank, generations=generations)))
    if doses is not None:
        views.append(("dose", dose_response(doses)))
    if selection is not None:
        views.append(("selection", selection_scores(selection)))
    if sweep is not None:
        views.append(("sweep", sweep_view(sweep)))
    if alerts:
        views.append(("alerts", alerts_view(alerts)))
    return views


def _watched(monitor: Panel, log: Any, alerts: list[Row]) -> View:
    """With the whole log where its path is known: it has all requests. Not with tokens alone."""
    if not isinstance(log, (str, Path)):
        log = alerts if alerts and "trace" in alerts[0] else None
    return monitor_view(monitor, log=log)


def _further(views: Sequence[View]) -> list[tuple[str, View]]:
    """What was given beside the results, by number: a title is no address."""
    return [(f"view-{i}", view) for i, view in enumerate(views, start=1)]
