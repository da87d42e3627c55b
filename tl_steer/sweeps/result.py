"""What a sweep found: a table of cells, and statistics over them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from tl_steer.errors import SettingError, SweepFileError
from tl_steer.files.signatures import typed
from tl_steer.files.tables import MOST_ROWS, Sheet, Tabled, number
from tl_steer.sweeps.asked import BANK, OVERFLOWS, RANDOM, UNSTEERED
from tl_steer.sweeps.folder import Folder
from tl_steer.sweeps.interval import Interval
from tl_steer.sweeps.metric import SHARED
from tl_steer.sweeps.phrases import Shared, Unsteered
from tl_steer.sweeps.state import State
from tl_steer.sweeps.systematic import FEWEST, Directions, Evidence, evidence, of_random

if TYPE_CHECKING:
    import pandas as pd


_NOT_TEXT = " (what vectors are trained to move; for texts, sweep with generate=)"
_OF_WORDS = " (the same new words on one prompt after another)"


@dataclass(frozen=True)
class Who:
    """What steered: a vector of the bank or a random one, by its number, times `dose`; or
    nothing."""

    kind: str
    vector: int
    dose: float


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult(Tabled):
    """Every vector on every prompt; `sweep` makes it and `load_sweep` reads it.

    Attributes:
        asked: how it was asked for, JSON.
        state: how far it came.
        folder: where its cells are; they are read when they are wanted.
        parts: the cells, where there is no folder.
    """

    asked: Mapping[str, Any]
    state: State
    folder: Path | None = None
    parts: tuple[pa.Table, ...] = ()

    @property
    def prompts(self) -> int:
        """How many prompts are done."""
        return self.state.prompts

    @property
    def finished(self) -> bool:
        """Whether all prompts are; not after Ctrl-C."""
        return self.state.finished

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what was measured, in the order in which it was asked for; `shared_phrase`
        wherever there are texts."""
        names = tuple(self.asked["metrics"])
        return names if SHARED in names or not self.asked["generate"] else (*names, SHARED)

    @property
    def doses(self) -> tuple[float, ...]:
        """Factors that the bank's vectors were multiplied by."""
        return tuple(dict.fromkeys(w.dose for w in self.who if w.kind == BANK))

    @cached_property
    def who(self) -> tuple[Who, ...]:
        """What steered, in the order of the rows of one prompt."""
        return tuple(Who(str(k), int(v), float(d)) for k, v, d in self.asked["who"])

    @cached_property
    def _on_disk(self) -> Folder | None:
        """One for all readings: it remembers which parts have been compared with their
        checksums."""
        return None if self.folder is None else Folder(self.folder)

    def cells(self, columns: Sequence[str] | None = None) -> pa.Table:
        """One row per vector and prompt, prompts in order; only some columns, if asked.

        Raises:
            SweepFileError: the folder is gone or damaged.
        """
        if self._on_disk is not None:
            return self._on_disk.cells(columns)
        whole = pa.concat_tables(self.parts)
        return whole if columns is None else whole.select(list(columns))

    def to_pandas(self) -> "pd.DataFrame":
        """All cells as a data frame; pandas must be installed."""
        return self.cells().to_pandas()

    def values(
        self, metric: str, *, kind: str = BANK, dose: float | int | None = None
    ) -> Float[np.ndarray, "vec prompt"]:
        """One metric as an array, NaN where a cell failed.

        Args:
            kind: "bank", "random" or "unsteered" (one row).
            dose: of the vectors; the first of `doses` unless given.

        Raises:
            SettingError: nothing of that name, kind or dose was measured.
        """
        if metric not in self.metrics:
            raise SettingError(f"{metric!r} was not measured; there are {', '.join(self.metrics)}.")
        if metric == SHARED:
            whole = np.stack([one.shares for one in self._shared])
        else:
            column = self.cells([metric])[metric].to_numpy().astype(np.float64)
            whole = column.reshape(-1, len(self.who)).T
        chosen = self._rows(kind, dose)
        if not chosen:
            raise SettingError(f"There is nothing of kind {kind!r} and dose {dose}.")
        found: np.ndarray = whole[chosen]
        return found

    @cached_property
    def _shared(self) -> tuple[Shared, ...]:
        """What each that steered says on one prompt after another, row by row."""
        found = self.cells(["text", "error"])
        broken = pc.fill_null(pc.match_substring(found["error"].cast("string"), OVERFLOWS), False)
        texts = pc.if_else(broken, pa.scalar(None, "string"), found["text"].cast("string"))

        def of(row: int) -> list[str | None]:
            rows = np.arange(row, len(texts), len(self.who))
            own: list[str | None] = texts.take(rows).to_pylist()
            return own

        unsteered = Unsteered(of(len(self.who) - 1))
        return tuple(unsteered(of(row)) for row in range(len(self.who)))

    def evidence(
        self, metric: str | None = None, *, dose: float | int | None = None, seed: int = 0
    ) -> tuple[Evidence, ...]:
        """Statistics and a verdict for every vector; see `tl_steer.sweeps.systematic`.

        Args:
            metric: what counts as an effect; the first that was measured unless given. For metrics
                of a pass it is their size, for metrics and scorers of texts the difference from
                what the unsteered text of that prompt got.
            dose: as for `values`.
            seed: of the bootstrap.

        Only of metrics of texts is a vector called "systematic"; one that moves activations or
        next tokens does what it was trained to, and is "steady" at most. With "shared_phrase" the
        reason ends with the phrase.

        Choose the metric before you look. A verdict holds for prompts like these, and counts
        effects at this radius; it says nothing of what a vector means.
        """
        name = self.metrics[0] if metric is None else metric
        signed = self._changes(name, BANK, dose)
        control = np.abs(self._changes(name, RANDOM, dose))
        own = self._rows(BANK, dose)
        rows = [*own, *self._rows(RANDOM, dose)]
        return evidence(
            np.abs(signed),
            control,
            self._directions.rows(rows),
            floor=self._floor(name),
            of_text=self._of_text(name),
            signed=signed,
            labels=tuple(self.asked["labels"]),
            numbers=tuple(self.who[row].vector for row in own),
            told=[str(self._shared[row]) for row in own] if name == SHARED else (),
            seed=seed,
        )

    def rows(
        self, metric: str | None = None, *, dose: float | int | None = None
    ) -> list[dict[str, Any]]:
        """The evidence as a flat table, a row per vector, intervals as `NAME_low` and `NAME_high`:
        what `sweep_view` and `report` show."""
        rests_on = {"metric": self.metrics[0] if metric is None else metric}
        return [_flat(found) | rests_on for found in self.evidence(metric, dose=dose)]

    def of_random(
        self, metric: str | None = None, *, dose: float | int | None = None
    ) -> tuple[float, float, float]:
        """Median prevalence, consistency and systematicness of the random vectors; NaN where there
        are none."""
        name = self.metrics[0] if metric is None else metric
        rows = self._rows(RANDOM, dose)
        if not rows:
            return math.nan, math.nan, math.nan
        control = np.abs(self._changes(name, RANDOM, dose))
        return of_random(control, self._directions.rows(rows), self._floor(name))

    def failures(self) -> list[tuple[str, int, str]]:
        """Prompt id, vector and error of every cell in which something failed."""
        found = self.cells(["id", "vector", "error"])
        failed = found.filter(found["error"].is_valid()).to_pylist()
        return [(row["id"], row["vector"], row["error"]) for row in failed]

    def to_json(self, metric: str | None = None) -> dict[str, Any]:
        """How it was asked for and the evidence; not the cells. NaN becomes `None`."""
        found = {str(d): [_plain(e) for e in self.evidence(metric, dose=d)] for d in self.doses}
        state = {"prompts": self.prompts, "finished": self.finished}
        folder = None if self.folder is None else str(self.folder)
        return {
            **self.asked,
            **state,
            "folder": folder,
            "failed": len(self.failures()),
            "effect": metric or self.metrics[0],
            "evidence": found,
        }

    def _of_text(self, metric: str) -> bool:
        return metric == SHARED or metric in self.asked["of_text"]

    def _rests_on(self, metric: str) -> str:
        of_text = _OF_WORDS if metric == SHARED else ""
        return metric + (of_text if self._of_text(metric) else _NOT_TEXT)

    def _changes(self, metric: str, kind: str, dose: float | int | None) -> np.ndarray:
        if not self._rows(kind, dose) and kind == RANDOM:
            return np.zeros((0, self.prompts))
        found = self.values(metric, kind=kind, dose=dose)
        if self._of_text(metric):
            found = found - self.values(metric, kind=UNSTEERED)
        return found

    def _floor(self, metric: str) -> float:
        """What the unsteered model shows against itself, at most: rounding."""
        if self._of_text(metric):
            return 0.0
        own = np.abs(self.values(metric, kind=UNSTEERED))
        return float(np.nanmax(own)) if np.isfinite(own).any() else 0.0

    def _rows(self, kind: str, dose: float | int | None) -> list[int]:
        wanted = self.doses[0] if dose is None else float(dose)
        wanted = {BANK: wanted, RANDOM: abs(wanted), UNSTEERED: 0.0}.get(kind, math.nan)
        return [i for i, who in enumerate(self.who) if (who.kind, who.dose) == (kind, wanted)]

    @property
    def _directions(self) -> Directions:
        filled = slice(0, max(1, min(self.prompts, len(self.state.sums))))
        return Directions(self.state.sums[filled].numpy(), self.state.counts[filled].numpy())

    def table(
        self, *, metric: str | None = None, most: int = MOST_ROWS, intervals: bool = True
    ) -> Sheet:
        """A row per vector and dose, the most systematic first, and the random vectors' medians;
        without `intervals`, what 80 columns have room for."""
        span = _span if intervals else _middle
        name = metric or self.metrics[0]
        columns = ["#", "dose", name, "> random", "prevalence", "consistency", "systematic", "q"]
        rows, left_out = [], 0
        for dose in self.doses:
            ordered = sorted(
                self.evidence(name, dose=dose), key=lambda e: -_known(e.systematicness)
            )
            left_out += max(0, len(ordered) - most)
            for one in ordered[:most]:
                spans = (one.prevalence, one.consistency, one.systematicness)
                cells = (
                    span(one.effect),
                    number(round(one.superiority.value, 3)),
                    *map(span, spans),
                )
                who = (str(one.vector), f"{dose:g}")
                rows.append((*who, *cells, number(one.q), one.verdict, one.label))
            if any(who.kind == "random" for who in self.who):
                random = (number(round(value, 3)) for value in self.of_random(name, dose=dose))
                rows.append(("", f"{abs(dose):g}", "", "", *random, "", "random", ""))
        failed = len(self.failures())
        note = (
            f"{self.prompts} prompts{'' if self.finished else ', not finished'}; verdicts rest on "
            f"{self._rests_on(name)}. "
            f"Estimates{' with 95% intervals' if intervals else ''}; prevalence is the share of "
            "prompts above 95% of the random vectors, systematicness is prevalence times "
            "consistency."
            + (f" No verdict on fewer than {FEWEST} prompts." if self.prompts < FEWEST else "")
            + (f" {failed} cells failed." if failed else "")
            + (f" {left_out} more rows not shown." if left_out else "")
        )
        empty = {"dose"} if len(self.doses) == 1 else set()
        empty |= set() if any(row[-1] for row in rows) else {"label"}
        return Sheet("Sweep", (*columns, "verdict", "label"), tuple(rows), note).without(empty)


@typed
def load_sweep(path: str | Path) -> SweepResult:
    """Read a sweep, finished or not; no model is needed.

    Raises:
        SweepFileError: there is none, or it is damaged (it says which part). Folders of version
            0.1.0 have no checksums, so in those a changed number may go unseen.
    """
    folder = Folder(path)
    asked, state = folder.asked, folder.state()
    if state is None:
        raise SweepFileError(f"The sweep in {path} has not finished its first part yet.")
    folder.refuse_rows()
    return SweepResult(asked, state, Path(path))


def _flat(found: Evidence) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if isinstance(value, Interval):
            row |= {field.name: value.value}
            row |= {f"{field.name}_low": value.low, f"{field.name}_high": value.high}
        else:
            row[field.name] = value
    return row


def _plain(found: Evidence) -> dict[str, Any]:
    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: finite(v) for k, v in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    plain: dict[str, Any] = finite(dataclasses.asdict(found))
    return plain


def _known(interval: Interval) -> float:
    return -math.inf if math.isnan(interval.value) else interval.value


def _middle(interval: Interval) -> str:
    return number(interval.value if math.isnan(interval.value) else round(interval.value, 3))


def _span(interval: Interval) -> str:
    if math.isnan(interval.value):
        return number(interval.value)
    low, high = (number(round(value, 2)) for value in (interval.low, interval.high))
    return f"{number(round(interval.value, 3))} ({low}–{high})"
