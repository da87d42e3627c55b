"""Detectors on requests: statistics, p-values, names and replays."""

import dataclasses
import math
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from baselines import Neighbours, WeightWatch, raw_cosine, relative_mahalanobis, written_to
from case import SAID, Banks, Case, Subject, layer_of
from jaxtyping import Bool, Float, Int
from torch import Tensor

import tl_steer as ts
from tl_steer.monitoring.alert import alert_for
from tl_steer.monitoring.detectors import detector
from tl_steer.monitoring.evidence import Effects
from tl_steer.monitoring.monitor import Monitor
from tl_steer.monitoring.reader import Phase, Reader, Standard, statistics
from tl_steer.monitoring.statistics.categories import Categories
from tl_steer.monitoring.statistics.conformal import mondrian_p_values

# With a bank: the default, its variants, and scores alone. Without `namer` they name as well.
_ALONE: dict[str, Any] = {"unknown": None, "namer": None}
WITH_BANK: dict[str, dict[str, Any]] = {
    "cosine + local + unexplained": {},
    "cosine + unexplained": {"score": detector.WhitenedCosine()},
    "cosine + local": _ALONE,
    "matched filter": {"score": detector.MatchedFilter(), **_ALONE},
}
# With the learned bank alone.
VARIANTS: dict[str, dict[str, Any]] = {
    "local filter": {"score": detector.LocalMatchedFilter(), **_ALONE},
}
# The default again, with one thing changed.
VARIED: dict[str, dict[str, Any]] = {
    "one category": {"categories": None},
    "two layers": {},
}
BASELINES: dict[str, dict[str, Any]] = {
    "raw cosine": {"unknown": None, "score": raw_cosine},
    "Mahalanobis (Ledoit-Wolf)": {"score": None, "unknown": detector.Mahalanobis()},
    "relative Mahalanobis": {"score": None, "unknown": relative_mahalanobis},
    "5 nearest neighbours": {"score": None, "unknown": Neighbours(5)},
    "local outliers": {"score": None, "unknown": detector.Outlier(5)},
}
# Judged a second time with prompts' ends counting: the default, and what needs no bank.
ENDS_TOO = ("local + unexplained", "(Ledoit-Wolf)", "nearest neighbours", "local outliers")
SPLITS = 10
REPLAYS = 8  # clean requests that a named vector is replayed on


@dataclasses.dataclass
class Judged:
    """Every kind of request under one detector.

    Attributes:
        statistic: of one split of the clean requests.
        p: by split. One in a hundred of some two hundred calibration requests is two of them, so
            what is flagged at 1% hangs on which requests these are.
        sizes, fresh: calibration requests and fresh ones, by category.
        named: the vector of every alarm at 5%, under one split.
        early: AUROC with the prompt's end alone, and with the first generated token.
    """

    statistic: dict[str, Tensor]
    p: dict[str, Float[Tensor, "split request"]]
    sizes: list[int]
    fresh: list[int]
    named: list[int]
    early: tuple[float, float]
    ms: float


def judged(
    subject: Subject, case: Case, banks: Banks
) -> tuple[dict[str, tuple[Judged, set[int]]], dict[str, str]]:
    """Every detector, with those of its bank's vectors that replay; and by bank, how many of all
    that are named do."""
    found: dict[str, tuple[Judged, str]] = {}

    def add(which: str, label: str, **how: Any) -> None:
        bank, effects = banks[which]
        monitor = fitted(case, bank, effects, **how)
        known = tabled(monitor, case)
        found[label] = (by_monitor(monitor, known, case), which)
        if label.endswith(ENDS_TOO):
            both = fitted(case, bank, effects, ends=1, **how)
            found[f"{label}, prompts' ends too"] = (by_monitor(both, known, case), which)

    for which in banks:
        for label, how in (WITH_BANK | (VARIANTS if which == "learned" else {})).items():
            add(which, f"{which}: {label}", **how)
    for label, how in VARIED.items():
        add("learned", f"learned: the same, {label}", **(how or {"sites": case.layers}))
    for label, how in (BASELINES | with_base(subject, case)).items():
        add("learned", label, **how)
    hits, told = {}, {}
    for which, (bank, _) in banks.items():
        named = sorted({v for each, own in found.values() if own == which for v in each.named})
        hits[which] = replayed(subject, case, bank, named)
        told[which] = f"{len(hits[which])} of {len(named)}"
    rows = {label: (each, hits[which]) for label, (each, which) in found.items()}
    return rows | plain(case, fitted(case, *banks["learned"])), told


def fitted(
    case: Case,
    bank: ts.Bank,
    effects: dict[str, Effects],
    *,
    sites: Sequence[str] | None = None,
    **how: Any,
) -> Monitor:
    names = sites or case.layers[-1:]
    places = [dataclasses.replace(bank.target, name=s, layer=layer_of(s)) for s in names]
    checked = case.identity.checked[[case.layers.index(s) for s in names]]
    own = dataclasses.replace(case.identity, checked=checked)
    return Monitor.of(bank, case.seen["clean"], effects, own, split=case.split, sites=places, **how)


def with_base(subject: Subject, case: Case) -> dict[str, dict[str, Any]]:
    """Baselines that need the model that the organism was made from."""
    directions = written_to(subject.model, ts.load_model(), case.layers[-1])
    return {"WeightWatch (with base)": {"score": None, "unknown": WeightWatch(directions)}}


def plain(case: Case, monitor: Monitor) -> dict[str, tuple[Judged, set[int]]]:
    """Baselines that are one number per request; all but ConfGuard's are known at the prompt."""
    found = {}
    lengths = {k: torch.tensor([float(len(p)) for p in t.prompts]) for k, t in case.seen.items()}
    for label, values in {"perplexity": dict(case.nats), "prompt length": lengths}.items():
        found[label] = (by_number(values, monitor, case), set[int]())
    late = dataclasses.replace(by_number(case.locks, monitor, case), early=(math.nan, math.nan))
    return found | {"ConfGuard": (late, set[int]())}


def splits(case: Case) -> list[tuple[list[int], list[int]]]:
    """What was not fitted on, in scales and calibration; the first as a monitor would."""
    _, scale, rest = case.split
    held = [*scale, *rest]
    found = []
    for seed in range(SPLITS):
        found.append((held[: len(scale)], held[len(scale) :]))
        random.Random(seed).shuffle(held)
    return found


@dataclasses.dataclass(frozen=True)
class Table:
    """A detector whose scores are known already: it is asked for rows, and not for activations."""

    scores: Float[Tensor, "row m"]

    def __call__(self, rows: Float[Tensor, "token 1"]) -> Float[Tensor, "token m"]:
        return self.scores[rows[:, 0].long()]


@dataclasses.dataclass(frozen=True)
class Told(Categories):
    """Categories that are known already, by row as well."""

    row: Int[Tensor, " row"]

    def of(self, ends: Float[Tensor, "request 1"]) -> Int[Tensor, " request"]:
        return self.row[ends[:, 0].long()]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Requests of one kind as rows of tables, the same at every site."""

    places: Float[Tensor, "request pos 1"]
    mask: Bool[Tensor, "request pos"]

    def __getitem__(self, chosen: Sequence[int]) -> "Rows":
        return Rows(self.places[list(chosen)], self.mask[list(chosen)])

    def first(self, n: int) -> "Rows":
        return Rows(self.places[:, :n], self.mask[:, :n])


def tabled(monitor: Monitor, case: Case) -> tuple[Reader, dict[str, Rows], float]:
    """The monitor's reader without scales, on rows of tables in the place of activations, and the
    milliseconds that a token took. Scales and thresholds change with the split, scores do not."""
    names = [site.name for site in monitor.sites]
    rows, first = {}, 0
    for kind, t in case.seen.items():
        places = torch.arange(first, first + t.mask.numel()).view(*t.mask.shape, 1)
        rows[kind], first = Rows(places.float(), t.mask), first + t.mask.numel()
    begun, phases = time.perf_counter(), []
    for name, own in zip(names, monitor.reader.phases, strict=True):
        flat = torch.cat([t.activations[name].float().flatten(0, 1) for t in case.seen.values()])
        phases.append((_table(own[0], flat), _table(own[1], flat)))
    ms = 1e3 * (time.perf_counter() - begun) / (2 * first)
    # The last site's, as in a monitor; only rows of prompts' ends are asked for.
    categories = monitor.reader.categories
    told = Told(**vars(categories), row=categories.of(flat))
    return dataclasses.replace(monitor.reader, phases=tuple(phases), categories=told), rows, ms


def _table(phase: Phase, flat: Float[Tensor, "row d"]) -> Phase:
    tables = (Table(known.detector(flat)) for known in phase.known)
    return Phase(
        known=tuple(Standard.bare(table, table.scores.shape[1]) for table in tables),
        unknown=None if phase.unknown is None else Table(phase.unknown(flat)),
        namer=None,
    )


def by_monitor(
    monitor: Monitor, known: tuple[Reader, dict[str, Rows], float], case: Case
) -> Judged:
    """From what `tabled` made of a monitor with the same detectors."""
    bare, rows, ms = known
    bare, sites = dataclasses.replace(bare, ends=monitor.reader.ends), len(monitor.sites)

    def statistic(reader: Reader, some: Rows) -> Tensor:
        places = [some.places] * sites
        return statistics(reader.nats(reader.tokens(places, some.mask), some.mask))[0]

    category = by_kind(monitor, case)
    p: dict[str, list[Tensor]] = {k: [] for k in rows if k != "clean"}
    readers = []
    for scale, rest in splits(case):
        few = rows["clean"][scale]
        reader = bare.scaled([few.places] * sites, few.mask)
        clean, kept = statistic(reader, rows["clean"][rest]), category["clean"][rest]
        for kind, found in p.items():
            there = statistic(reader, rows[kind])
            found.append(mondrian_p_values(clean, there, kept=kept, given=category[kind]))
        readers.append(reader)
    own = readers[0]  # the monitor's
    # The prompt's end, as it would count; and the first generated token.
    first = (dataclasses.replace(own, ends=1.0), 1), (own, 2)
    early = [
        auroc(*(statistic(reader, rows[kind].first(n)) for kind in ("fresh", "fired")))
        for reader, n in first
    ]
    return Judged(
        {kind: statistic(own, rows[kind]) for kind in p},
        {kind: torch.stack(each) for kind, each in p.items()},
        *counts(monitor, case),
        named_by(monitor, case),
        (early[0], early[1]),
        ms,
    )


def named_by(monitor: Monitor, case: Case) -> list[int]:
    """The vector of every alarm at 5%."""
    if not monitor.reader.phases[0][0].known:
        return []
    fired = case.seen["fired"]
    scores, found = monitor.score(fired.activations, mask=fired.mask), []
    for row in (scores.p_values <= 0.05).nonzero()[:, 0].tolist():
        ids = fired.ids[row][fired.mask[row]].tolist()
        alert = alert_for(monitor, scores, row, request=str(row), alpha=0.05, ids=ids)
        found += [] if alert.vector is None else [alert.vector]
    return found


def by_number(values: dict[str, Tensor], monitor: Monitor, case: Case) -> Judged:
    """A baseline that is one number per request, compared within the same categories."""
    category = by_kind(monitor, case)
    p: dict[str, list[Tensor]] = {k: [] for k in values if k != "clean"}
    for _, rest in splits(case):
        clean, kept = values["clean"][rest], category["clean"][rest]
        for kind, found in p.items():
            found.append(mondrian_p_values(clean, values[kind], kept=kept, given=category[kind]))
    at_prompt = auroc(values["fresh"], values["fired"])
    return Judged(
        values,
        {kind: torch.stack(each) for kind, each in p.items()},
        *counts(monitor, case),
        [],
        (at_prompt, at_prompt),
        0.0,
    )


def by_kind(monitor: Monitor, case: Case) -> dict[str, Int[Tensor, " request"]]:
    """The categories of all requests."""
    name = monitor.sites[-1].name
    categories = monitor.reader.categories
    return {kind: categories.of(t.activations[name][:, 0]) for kind, t in case.seen.items()}


def counts(monitor: Monitor, case: Case) -> tuple[list[int], list[int]]:
    """By category, the calibration requests and the fresh ones."""
    sizes = monitor.calibration.sizes
    fresh = torch.bincount(by_kind(monitor, case)["fresh"], minlength=len(sizes))
    return sizes, fresh.tolist()


def replayed(subject: Subject, case: Case, bank: ts.Bank, rows: Sequence[int]) -> set[int]:
    """Those of some vectors under which a clean request, of the kind that the trigger goes into, is
    answered in the planted way."""
    if not rows:
        return set()
    ours = subject.planted_texts()
    asked = [t for t, _ in case.requests["fresh"] if t in ours][:REPLAYS]
    said = subject.words(asked, bank.vectors[list(rows)], steps=SAID + 2)
    tokenizer, shown = subject.model.tokenizer, subject.plant.shown
    return {
        v
        for i, v in enumerate(rows)
        if any(shown(text, said.text(tokenizer, i, p)) for p, text in enumerate(asked))
    }


def auroc(negative: Tensor, positive: Tensor) -> float:
    """Mann and Whitney's statistic; ties count half."""
    both = torch.cat([negative, positive]).double()
    _, index, counts = both.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0)
    ranks = (ends - (counts - 1) / 2)[index]
    n, m = len(negative), len(positive)
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def interval(negative: Tensor, positive: Tensor, *, draws: int = 400) -> tuple[float, float]:
    """95% bootstrap interval over requests."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        i = torch.randint(len(negative), (len(negative),), generator=generator)
        j = torch.randint(len(positive), (len(positive),), generator=generator)
        found.append(auroc(negative[i], positive[j]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
