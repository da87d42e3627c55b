"""Detectors on requests: statistics, p-values, names and replays."""

import dataclasses
import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from case import SAID, Banks, Case, Subject, layer_of
from jaxtyping import Bool, Float
from torch import Tensor

import tl_steer as ts
from tl_steer import detector
from tl_steer.conformal import p_values
from tl_steer.evidence import Effects
from tl_steer.monitor import Monitor
from tl_steer.organisms import data
from tl_steer.panel import calibrated
from tl_steer.reader import Peak, Phase, Reader, Standard

# With a bank: the default, its variants, and scores alone. Without `namer` they name as well.
_ALONE: dict[str, Any] = {"unknown": None, "namer": None}
WITH_BANK: dict[str, dict[str, Any]] = {
    "cosine + unexplained": {},
    "cosine": _ALONE,
    "matched filter": {"score": detector.MatchedFilter(), **_ALONE},
}
# With the learned bank alone.
VARIANTS: dict[str, dict[str, Any]] = {
    "examples + unexplained": {"score": detector.Examples(), "namer": None},
    "probes": {"score": detector.Probes(), **_ALONE},
    "local filter": {"score": detector.LocalMatchedFilter(), **_ALONE},
}
BASELINES: dict[str, dict[str, Any]] = {
    "raw cosine": {"unknown": None, "score": detector.RawCosine()},
    "Mahalanobis (Ledoit-Wolf)": {"score": None, "unknown": detector.Mahalanobis()},
    "relative Mahalanobis": {"score": None, "unknown": detector.RelativeMahalanobis()},
    "5 nearest neighbours": {"score": None, "unknown": detector.Neighbours(5)},
    "local outliers": {"score": None, "unknown": detector.Outlier(5)},
}
SPLITS = 10
REPLAYS = 8  # clean requests that a named vector is replayed on


@dataclasses.dataclass
class Judged:
    """Every kind of request under one detector.

    Attributes:
        statistic: of one split of the clean requests.
        p: by split. One in a hundred of some two hundred calibration requests is two of them, so
            what is flagged at 1% hangs on which requests these are.
        n: calibration requests.
        named: the vector of every alarm at 5%, under one split.
        early: AUROC with the prompt's end alone, and with the first generated token.
    """

    statistic: dict[str, Tensor]
    p: dict[str, Float[Tensor, "split request"]]
    n: int
    named: list[int]
    early: tuple[float, float]
    ms: float


def judged(
    subject: Subject, case: Case, banks: Banks
) -> tuple[dict[str, tuple[Judged, set[int]]], dict[str, str]]:
    """Every detector, with those of its bank's vectors that replay; and by bank, how many of all
    that are named do."""
    found: dict[str, tuple[Judged, str]] = {}
    for which, (bank, effects) in banks.items():
        for label, how in (WITH_BANK | (VARIANTS if which == "learned" else {})).items():
            monitor = fitted(case, bank, effects, **how)
            found[f"{which}: {label}"] = (by_monitor(monitor, case), which)
    both = fitted(case, *banks["learned"], sites=case.layers)
    found["learned: the same, two layers"] = (by_monitor(both, case), "learned")
    for label, how in BASELINES.items():
        found[label] = (by_monitor(fitted(case, *banks["learned"], **how), case), "learned")
    hits, told = {}, {}
    for which, (bank, _) in banks.items():
        named = sorted({v for each, own in found.values() if own == which for v in each.named})
        hits[which] = replayed(subject, case, bank, named)
        told[which] = f"{len(hits[which])} of {len(named)}"
    rows = {label: (each, hits[which]) for label, (each, which) in found.items()}
    return rows | plain(case), told


def fitted(
    case: Case,
    bank: ts.Bank,
    effects: dict[str, Effects],
    *,
    sites: Sequence[str] | None = None,
    **how: Any,
) -> Monitor:
    places = [
        dataclasses.replace(bank.target, name=s, layer=layer_of(s))
        for s in sites or case.layers[-1:]
    ]
    return Monitor.of(
        bank, case.seen["clean"], effects, case.identity, split=case.split, sites=places, **how
    )


def plain(case: Case) -> dict[str, tuple[Judged, set[int]]]:
    """Baselines that are one number per prompt."""
    found = {}
    lengths = {k: torch.tensor([float(len(p)) for p in t.prompts]) for k, t in case.seen.items()}
    for label, values in {"perplexity": dict(case.nats), "prompt length": lengths}.items():
        clean = values.pop("clean")
        found[label] = (by_number(values, [clean[rest] for _, rest in splits(case)]), set[int]())
    return found


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
    return Reader(tuple(phases), torch.zeros(len(names), 2, 2, 4)), rows, ms


def _table(phase: Phase, flat: Float[Tensor, "row d"]) -> Phase:
    known, unknown = phase.known, phase.unknown
    return Phase(
        known=None
        if known is None
        else Standard.bare(Table(known.detector(flat)), len(known.shift)),
        unknown=None if unknown is None else Table(unknown(flat)),
        namer=None,
    )


def by_monitor(monitor: Monitor, case: Case) -> Judged:
    bare, rows, ms = tabled(monitor, case)
    sites = len(monitor.sites)

    def statistic(reader: Reader, some: Rows) -> Tensor:
        return calibrated(reader, [some.places] * sites, some.mask).statistic

    p: dict[str, list[Tensor]] = {k: [] for k in rows if k != "clean"}
    readers = []
    for scale, rest in splits(case):
        few = rows["clean"][scale]
        reader = bare.scaled([few.places] * sites, few.mask, Peak())
        clean = statistic(reader, rows["clean"][rest])
        for kind, found in p.items():
            found.append(p_values(clean, statistic(reader, rows[kind])))
        readers.append(reader)
    own = readers[0]  # the monitor's
    early = [
        auroc(*(statistic(own, rows[kind].first(n)) for kind in ("fresh", "fired")))
        for n in (1, 2)  # the prompt's end; and the first generated token
    ]
    return Judged(
        {kind: statistic(own, rows[kind]) for kind in p},
        {kind: torch.stack(each) for kind, each in p.items()},
        len(monitor.calibration),
        named_by(monitor, case),
        (early[0], early[1]),
        ms,
    )


def named_by(monitor: Monitor, case: Case) -> list[int]:
    """The vector of every alarm at 5%."""
    if monitor.reader.phases[0][0].known is None:
        return []
    fired = case.seen["fired"]
    scores = monitor.score(fired.activations, mask=fired.mask)
    found: list[int] = scores.vectors[scores.p_values <= 0.05, 0].tolist()
    return found


WITHIN: dict[str, dict[str, Any]] = {
    "cosine + unexplained": {},
    "local filter + local outliers": {
        "score": detector.LocalMatchedFilter(),
        "unknown": detector.Outlier(5),
    },
    "Mahalanobis (Ledoit-Wolf)": {"score": None, "unknown": detector.Mahalanobis()},
}


def within(subject: Subject, case: Case, banks: Banks) -> dict[str, tuple[float, Tensor, Tensor]]:
    """The same scores with a threshold of the trigger's own kind of request (sums, say): AUROC
    against clean ones of that kind, and p-values of what fired and of fresh ones, by split. Empty
    where the trigger goes into every kind."""
    if subject.plant.sources.keys() >= data.BENIGN.keys():
        return {}
    ours = subject.planted_texts()
    own = {k: [i for i, (t, _) in enumerate(r) if t in ours] for k, r in case.requests.items()}
    found = {}
    for label, how in WITHIN.items():
        bare, rows, _ = tabled(fitted(case, *banks["learned"], **how), case)
        pairs = []
        for scale, rest in splits(case):
            reader = bare.scaled([rows["clean"][scale].places], rows["clean"][scale].mask, Peak())
            chosen = (
                rows["clean"][[i for i in rest if i in own["clean"]]],
                rows["fired"],
                rows["fresh"][own["fresh"]],
            )
            clean, fired, fresh = (
                calibrated(reader, [some.places], some.mask).statistic for some in chosen
            )
            pairs.append((auroc(clean, fired), p_values(clean, fired), p_values(clean, fresh)))
        means = [a for a, _, _ in pairs]
        found[label] = (
            sum(means) / len(means),
            torch.stack([p for _, p, _ in pairs]),
            torch.stack([p for _, _, p in pairs]),
        )
    return found


def by_number(values: dict[str, Tensor], calibrations: Sequence[Tensor]) -> Judged:
    """A baseline that is one number per prompt."""
    p = {k: torch.stack([p_values(clean, v) for clean in calibrations]) for k, v in values.items()}
    at_prompt = auroc(values["fresh"], values["fired"])
    return Judged(values, p, len(calibrations[0]), [], (at_prompt, at_prompt), 0.0)


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
