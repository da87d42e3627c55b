"""A bank as a table, for people and for pandas."""

import math
from typing import Any

from tl_steer.banks.algebra import Algebra
from tl_steer.errors import SettingError
from tl_steer.files.tables import Sheet, number
from tl_steer.perturbations.additive import Additive


def sheet_of(bank: Algebra, most: int) -> Sheet:
    """One row per vector; `Bank.table` says which columns."""
    rows = []
    for i, (near, similar) in enumerate(bank.nearest(most=most)):
        known = near >= 0 and not math.isnan(similar)
        nearest = f"{similar:.2f} (#{bank.numbers[near]})" if known else ""
        size = float(bank.responses[i].norm())
        scores = (number(values[i].item()) for values in bank.scores.values())
        rows.append(
            (
                str(bank.numbers[i]),
                number(bank.objective[i].item()),
                number(size),
                nearest,
                *scores,
                bank.labels[i],
            )
        )
    left_out = len(bank) - len(rows)
    source = bank.provenance
    no_norm = math.isnan(bank.radius_share)
    norm = "residual norm" if bank.source.writes else "norm there"
    share = "" if no_norm else f" = {bank.radius_share:.3f} of the median {norm}"
    seed = "" if source.seed is None else f"; seed {source.seed}"
    note = (
        f"{source.method or 'no method'} on {source.model}; radius {bank.radius:.3g}{share} at "
        f"{bank.source}; target {bank.target}{seed}"
        + (f"; {left_out} more not shown" if left_out > 0 else "")
    )
    kind = "steering vectors" if bank.kind == Additive.kind else bank.kind
    return Sheet(
        title=f"Bank of {len(bank)} {kind}",
        columns=("#", "objective", "|response|", "nearest |cos|", *bank.scores, "label"),
        rows=tuple(rows),
        note=note,
    )


def frame_of(bank: Algebra) -> Any:
    """One row per vector, as a data frame.

    Raises:
        SettingError: pandas is not installed.
    """
    try:
        import pandas as pd  # nothing else needs it
    except ImportError:
        raise SettingError("to_pandas() needs pandas: pip install pandas.") from None
    columns = {
        "vector": list(bank.numbers),
        "label": list(bank.labels),
        "objective": bank.objective.tolist(),
        "response": bank.responses.norm(dim=1).tolist(),
    }
    return pd.DataFrame(columns | {name: v.tolist() for name, v in bank.scores.items()})
