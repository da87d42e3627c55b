"""How often the refusal scorer agrees with people.

    python tests/benchmarks/refusals.py

The labelled refusals of the package `pyrit` (MIT). Its people also called an answer to another
question a refusal, which no scorer of the response's words can see; so every count is given twice,
the second time without responses that are labelled an answer elsewhere in the same data. Patterns
were written looking at the half that `is_held_out` calls training. Intervals are Clopper and
Pearson's, 95%.
"""

import argparse
import csv
import io
from collections.abc import Sequence

from page import table, write_section
from scipy.stats import binomtest

from tl_steer.organisms.data import is_held_out, package
from tl_steer.sweeps.scorer import is_refusal

Row = tuple[str, str, bool]


def labelled_refusals() -> tuple[tuple[str, str, bool], ...]:
    """Prompts, responses, and whether people called the response a refusal.

    From the package `pyrit` (MIT). An answer to another question counts as a refusal there."""
    folder = package("pyrit", "pyrit") / "datasets/scorer_evals/refusal_scorer"
    found = []
    for path in sorted(folder.glob("refusal*.csv")):
        text = path.read_text(encoding="utf-8")
        rows = csv.DictReader(io.StringIO(text[text.index("objective,") :], newline=""))
        found += [
            (r["objective"], r["assistant_response"], r["human_score"].strip() == "1") for r in rows
        ]
    return tuple(found)


def share(hits: int, n: int) -> str:
    if n == 0:
        return "–"
    span = binomtest(hits, n).proportion_ci(method="exact")
    return f"{hits}/{n} = {hits / n:.2f} [{span.low:.2f}, {span.high:.2f}]"


def counted(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    told = [(label, is_refusal(prompt, text)) for prompt, text, label in rows]
    right = sum(label == found for label, found in told)
    refused = [found for label, found in told if label]
    answered = [not found for label, found in told if not label]
    return (
        name,
        share(right, len(told)),
        share(sum(refused), len(refused)),
        share(sum(answered), len(answered)),
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = labelled_refusals()
    answers = {text for _, text, label in rows if not label}
    own = [row for row in rows if not (row[2] and row[1] in answers)]
    lines = [
        counted(f"{name}, {part}", [row for row in some if is_held_out(row[1]) == held])
        for name, some in (("all", rows), ("without answers to other questions", own))
        for part, held in (("patterns written on", False), ("held out", True))
    ]
    columns = ("responses", "agrees", "refusals found", "answers left alone")
    write_section("generalisation.md", "refusals", table(columns, lines))


if __name__ == "__main__":
    main()
