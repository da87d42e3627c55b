"""A bank as a table, for people and for pandas."""

import math
from typing import Any

from tl_steer.banks.algebra import Algebra
from tl_steer.files.optional import imported
from tl_steer.files.tables import Sheet, number, shorten
from tl_steer.perturbations.additive import Additive

# Vectors; with more, a table would take longer to print than anybody waits for one.
_COMPARED = 1 << 14
_SHOWN = 80  # characters of a comment


def sheet_of(bank: Algebra, most: int) -> Sheet:
    """One row per vector; `Bank.table` says which columns."""
    shown = range(len(bank))[:most]
    columns = [
        ("#", [str(bank.numbers[i]) for i in shown]),
        ("objective", [number(bank.objective[i].item()) for i in shown]),
        ("|response|", [number(float(bank.responses[i].float().norm())) for i in shown]),
    ]
    if len(bank) <= _COMPARED:
        columns.append(("nearest |cos|", _nearest(bank, most)))
    for name, values in bank.scores.items():
        columns.append((name, [number(values[i].item()) for i in shown]))
    columns.append(("label", list(bank.labels[: len(shown)])))
    if any(bank.comments):
        columns.append(("comment", [shorten(bank.comments[i], _SHOWN) for i in shown]))
    vectors = bank.kind == Additive.kind
    what = ("steering vector" if vectors else "perturbation") + ("s" if len(bank) != 1 else "")
    return Sheet(
        title=f"Bank of {len(bank)} {what}" + ("" if vectors else f" of kind {bank.kind}"),
        columns=tuple(name for name, _ in columns),
        rows=tuple(zip(*(cells for _, cells in columns), strict=True)),
        note=_note(bank, len(bank) - len(shown)),
    )


def _note(bank: Algebra, left_out: int) -> str:
    source = bank.provenance
    norm = "residual norm" if bank.source.writes else "norm there"
    no_norm = math.isnan(bank.radius_share)
    share = "" if no_norm else f" = {bank.radius_share:.3f} of the median {norm}"
    seed = "" if source.seed is None else f"; seed {source.seed}"
    return (
        f"{source.method or 'no method'} on {source.model}; radius {bank.radius:.3g}{share} at "
        f"{bank.source}; target {bank.target}{seed}"
        + (f"; {left_out} more not shown" if left_out > 0 else "")
        + (f"; unfinished: {source.unfinished}" if source.unfinished else "")
    )


def _nearest(bank: Algebra, most: int) -> list[str]:
    return [
        f"{similar:.2f} (#{bank.numbers[near]})" if near >= 0 and not math.isnan(similar) else ""
        for near, similar in bank.nearest(most=most)
    ]


def frame_of(bank: Algebra) -> Any:
    """One row per vector, as a data frame.

    Raises:
        SettingError: pandas is not installed.
    """
    pd = imported("pandas", install="pandas")  # nothing else needs it
    columns = {
        "vector": list(bank.numbers),
        "label": list(bank.labels),
        **({"comment": list(bank.comments)} if any(bank.comments) else {}),
        "objective": bank.objective.tolist(),
        "response": bank.responses.norm(dim=1).tolist(),
    }
    return pd.DataFrame(columns | {name: v.tolist() for name, v in bank.scores.items()})
