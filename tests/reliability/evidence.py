"""The tables of docs/evidence/reliability.md: every harness writes its own section."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "reliability.md"
_HEAD = """# Reliability: figures

Written by `make torture`, one section by each script in `tests/reliability/`, with tiny random
models on the CPU. A failure is a case that did not end as the section's first line says.
"""


@dataclass(frozen=True)
class Row:
    """Cases of one kind, and how many of them failed."""

    what: str
    cases: int
    failures: int
    note: str = ""


def table(rows: Sequence[Row]) -> str:
    lines = ["| what | cases | failures | note |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.what} | {row.cases} | {row.failures} | {row.note} |" for row in rows]
    total = sum(row.cases for row in rows), sum(row.failures for row in rows)
    return "\n".join([*lines, f"| **all** | **{total[0]}** | **{total[1]}** | |"])


def write(section: str, promise: str, rows: Sequence[Row], *, command: str) -> None:
    """Put a section on the page, in the place of the one with that title."""
    own = f"## {section}\n\n{promise}\n\n    {command}\n\n{table(rows)}\n"
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else _HEAD
    parts = re.split(r"(?m)^(?=## )", page)
    kept = [part.rstrip() + "\n" for part in parts if not part.startswith(f"## {section}\n")]
    head, others = kept[0], sorted([*kept[1:], own])
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join([head, *others]), encoding="utf-8")
