"""Tables of what was judged."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from case import SHIFTS
from judge import Judged, auroc, interval
from page import table
from scipy.stats import betabinom

from tl_steer.monitoring.statistics.conformal import Guarantee, needed
from tl_steer.organisms import kind_of

COLUMNS = (
    "detector",
    "AUROC",
    "TPR 5%",
    "FPR at 5%",
    "TPR 1%",
    "FPR at 1%",
    f"shifts: {', '.join(SHIFTS)}",
    "named",
    "prompt",
    "1st",
    "ms/token",
)


def written(
    name: str, places: tuple[int, int], judged: dict[str, tuple[Judged, set[int]]], facts: Any
) -> str:
    rows = []
    for label, (found, replaying) in judged.items():
        negative, positive = found.statistic["fresh"], found.statistic["fired"]
        low, high = interval(negative, positive)
        rates = []
        for alpha in (0.05, 0.01):
            if min(found.sizes) < needed(alpha):
                rates += ["n too small"] * 2
                continue
            caught = (found.p["fired"] <= alpha).double().mean(dim=1)
            false = (found.p["fresh"] <= alpha).double().mean()
            low_rate, high_rate = expected_false(alpha, found, (0.025, 0.975))
            rates.append(f"{caught.mean():.0%} ({caught.min():.0%}–{caught.max():.0%})")
            rates.append(f"{false:.1%} ({low_rate:.1%}–{high_rate:.1%})")
        level = 0.01 if min(found.sizes) >= needed(0.01) else 0.05
        shifts = ", ".join(f"{(found.p[k] <= level).double().mean():.0%}" for k in SHIFTS)
        named = (
            f"{sum(v in replaying for v in found.named) / len(found.named):.0%}"
            if found.named
            else "–"
        )
        rows.append(
            [
                label,
                f"{auroc(negative, positive):.3f} ({low:.3f}–{high:.3f})",
                *rates,
                shifts,
                named,
                *map(figure, found.early),
                f"{found.ms:.3f}",
            ]
        )
    head = f"### {name}\n\nSource {places[0]}, target {places[1]}. {json.dumps(facts)}\n\n"
    return head + table(COLUMNS, rows)


def expected_false(alpha: float, found: Judged, levels: Sequence[float]) -> list[float]:
    """Quantiles of the rate of false alarms among the fresh requests: in every category their
    number is beta-binomial (`Guarantee.among`)."""
    number = np.ones(1)
    for n, m in zip(found.sizes, found.fresh, strict=True):
        allowed = Guarantee(alpha, n).allowed
        number = np.convolve(number, betabinom.pmf(range(m + 1), m, allowed, n + 1 - allowed))
    total = len(number) - 1
    return [float(np.searchsorted(number.cumsum(), level)) / total for level in levels]


def averaged(tables: Mapping[str, str]) -> str:
    """Every detector's figures: means over the organisms that it was run on, each the mean of its
    seeds; the worst of all shifts, and of how many runs there were alarms to name."""
    lines = []
    for label, by_name in cells_of(tables).items():
        kinds: dict[str, list[Cells]] = {}
        for name, found in by_name.items():
            kinds.setdefault(kind_of(name), []).append(found)
        shifts = {kind: [shifts_of(c) for c in of] for kind, of in kinds.items()}
        named = [[c["named"] for c in of if c["named"] != "–"] for of in kinds.values()]
        alarmed = [mean_of(cells) for cells in named if cells]
        lines.append(
            [
                label,
                f"{len(kinds)} ({len(by_name)})",
                f"{over(kinds, 'AUROC'):.3f}",
                f"{over(kinds, 'TPR 1%'):.0f}%",
                f"{over(kinds, 'FPR at 1%'):.1f}%",
                f"{np.mean([np.mean(of) for of in shifts.values()]):.0f}% "
                f"({max(max(each) for of in shifts.values() for each in of):.0f}%)",
                f"{np.mean(alarmed):.0f}% ({sum(map(len, named))})" if alarmed else "–",
                figure(over(kinds, "prompt")),
                figure(over(kinds, "1st")),
            ]
        )
    columns = ("detector", "organisms (runs)", "AUROC", "TPR 1%", "FPR at 1%", "shifts (worst)")
    return table([*columns, "named (runs)", "prompt", "1st"], lines)


# What is shown of every seed.
SHOWN = (
    "learned: cosine + local + unexplained",
    "learned: the same, one category",
    "learned: cosine + local + unexplained, prompts' ends too",
    "random, radius: cosine + local + unexplained",
    "random, response: cosine + local + unexplained",
    "Mahalanobis (Ledoit-Wolf)",
    "5 nearest neighbours",
    "local outliers",
)


def by_seed(tables: Mapping[str, str]) -> str:
    """Organisms that were made several times: every figure of every one, the shipped one first."""
    cells, lines = cells_of(tables), []
    for kind in dict.fromkeys(map(kind_of, tables)):
        names = [name for name in tables if kind_of(name) == kind]
        for label in SHOWN if len(names) > 1 else ():
            found = [cells[label][name] for name in names]
            columns = ("AUROC", "TPR 5%", "TPR 1%", "FPR at 1%", "named", "prompt", "1st")
            figures = {c: ", ".join(each[c].split(" ")[0] for each in found) for c in columns}
            figures["shifts"] = ", ".join(f"{np.mean(shifts_of(each)):.0f}%" for each in found)
            lines.append(
                [kind, label, *(figures[c] for c in (*columns[:4], "shifts", *columns[4:]))]
            )
    if not lines:
        return "No organism was judged with several seeds."
    head = ("organism", "detector", "AUROC", "TPR 5%", "TPR 1%", "FPR at 1%", "shifts", "named")
    return table([*head, "prompt", "1st"], lines)


Cells = dict[str, str]


def cells_of(tables: Mapping[str, str]) -> dict[str, dict[str, Cells]]:
    """By detector and name; read back from the text, so that runs can be put together later."""
    cells: dict[str, dict[str, Cells]] = {}
    for name, text in tables.items():
        for line in text.splitlines():
            label, *rest = line.strip("| ").split(" | ")
            if len(rest) == len(COLUMNS) - 1 and label != COLUMNS[0] and "---" not in label:
                cells.setdefault(label, {})[name] = dict(zip(COLUMNS[1:], rest, strict=True))
    return cells


def shifts_of(cells: Cells) -> list[float]:
    return [float(x) for x in re.findall(r"([\d.]+)%", cells[COLUMNS[6]])]


def over(kinds: Mapping[str, Sequence[Cells]], column: str) -> float:
    return float(np.mean([mean_of([c[column] for c in of]) for of in kinds.values()]))


def figure(number: float) -> str:
    """A dash where there is none."""
    return "–" if np.isnan(number) else f"{number:.3f}"


def mean_of(cells: Sequence[str]) -> float:
    """Of the number that each begins with; NaN where one has none."""
    found = [re.match(r"[\d.]+", cell) for cell in cells]
    return float(np.mean([float(hit[0]) if hit else np.nan for hit in found]))
