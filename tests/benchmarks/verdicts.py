"""Tables of what was judged."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from case import SHIFTS
from judge import Judged, auroc, interval
from page import table

from tl_steer.conformal import Guarantee

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
    for label, (found, hits) in judged.items():
        negative, positive = found.statistic["fresh"], found.statistic["fired"]
        low, high = interval(negative, positive)
        rates = []
        for alpha in (0.05, 0.01):
            if found.n < 1 / alpha - 1:
                rates += ["n too small"] * 2
                continue
            promise = Guarantee(alpha, found.n)
            hit = (found.p["fired"] <= alpha).double().mean()
            false, m = (found.p["fresh"] <= alpha).double().mean(), len(negative)
            low_rate, high_rate = (promise.among(m, level) / m for level in (0.025, 0.975))
            rates += [f"{hit:.0%}", f"{false:.1%} ({low_rate:.1%}–{high_rate:.1%})"]
        level = 0.01 if found.n >= 99 else 0.05
        shifts = ", ".join(f"{(found.p[k] <= level).double().mean():.0%}" for k in SHIFTS)
        named = (
            f"{sum(v in hits for v in found.named) / len(found.named):.0%}" if found.named else "–"
        )
        rows.append(
            [
                label,
                f"{auroc(negative, positive):.3f} ({low:.3f}–{high:.3f})",
                *rates,
                shifts,
                named,
                f"{found.early[0]:.3f}",
                f"{found.early[1]:.3f}",
                f"{found.ms:.3f}",
            ]
        )
    head = f"### {name}\n\nSource {places[0]}, target {places[1]}. {json.dumps(facts)}\n\n"
    return head + table(COLUMNS, rows)


def averaged(tables: Sequence[str]) -> str:
    """Every detector's figures: plain means over the organisms that it was run on, the worst of the
    shifts, and of how many organisms there were alarms to name."""
    cells: dict[str, list[list[str]]] = {}
    lines: list[list[Any]] = []
    for text in tables:
        for line in text.splitlines():
            label, *rest = line.strip("| ").split(" | ")
            if len(rest) == len(COLUMNS) - 1 and label != COLUMNS[0] and "---" not in label:
                cells.setdefault(label, []).append(rest)
    for label, rows in cells.items():
        auroc, _, _, tpr, fpr, shifts, named, prompt, first, _ = zip(*rows, strict=True)
        alarmed = [cell for cell in named if cell != "–"]
        each = [float(x) for cell in shifts for x in re.findall(r"([\d.]+)%", cell)]
        lines.append(
            [
                label,
                len(rows),
                f"{mean_of(auroc):.3f}",
                f"{mean_of(tpr):.0f}%",
                f"{mean_of(fpr):.1f}%",
                f"{np.mean(each):.0f}% ({max(each):.0f}%)",
                f"{mean_of(alarmed):.0f}% ({len(alarmed)})" if alarmed else "–",
                f"{mean_of(prompt):.3f}",
                f"{mean_of(first):.3f}",
            ]
        )
    columns = [
        "detector",
        "organisms",
        "AUROC",
        "TPR 1%",
        "FPR at 1%",
        "shifts (worst)",
        "named (of)",
    ]
    return table([*columns, "prompt", "1st"], lines)


def mean_of(cells: Sequence[str]) -> float:
    """Of the number that each begins with; NaN where one has none."""
    found = [re.match(r"[\d.]+", cell) for cell in cells]
    return float(np.mean([float(hit[0]) if hit else np.nan for hit in found]))
