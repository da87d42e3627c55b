"""docs/evidence/mutants.md: how many planted faults the tests notice, and those that live."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "mutants.md"
BEGIN, END = "<!-- begin: mutants -->", "<!-- end: mutants -->"


def write(results: Sequence[dict[str, Any]], *, seed: int, size: int) -> None:
    """Put the results between the page's two marks."""
    own = f"{BEGIN}\n{report(results, seed=seed, size=size)}\n{END}"
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        re.sub(f"(?s){BEGIN}.*{END}", lambda _: own, page), encoding="utf-8", newline="\n"
    )


def report(results: Sequence[dict[str, Any]], *, seed: int, size: int) -> str:
    wings = list(dict.fromkeys(one["wing"] for one in results))
    lines = [
        f"Seed {seed}, at most {size} faults a wing.",
        "",
        "| wing | faults | killed | equivalent | alive | killed or equivalent |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(wing, [one for one in results if one["wing"] == wing]) for wing in wings),
        _row("**all**", results),
    ]
    for title, kind in (("Alive", "alive"), ("Equivalent", "equivalent")):
        found = [one for one in results if verdict(one) == kind]
        if found:
            lines += ["", f"### {title}", "", *map(_told, found)]
    return "\n".join(lines)


def verdict(one: dict[str, Any]) -> str:
    """A fault that made tests hang was noticed."""
    if one["end"] != "alive":
        return "killed"
    return "equivalent" if one["why"] else "alive"


def _row(name: str, own: Sequence[dict[str, Any]]) -> str:
    counts = [
        sum(verdict(one) == kind for one in own) for kind in ("killed", "equivalent", "alive")
    ]
    share = (counts[0] + counts[1]) / max(1, len(own))
    return f"| {name} | {len(own)} | {' | '.join(map(str, counts))} | {share:.0%} |"


def _told(one: dict[str, Any]) -> str:
    why = f": {one['why']}" if one["why"] else ""
    change = f"`{_short(one['before'])}` became `{_short(one['after'])}`"
    return f"- `{one['path'].removeprefix('tl_steer/')}` {change}{why}"


def _short(line: str) -> str:
    return (line if len(line) <= 90 else f"{line[:87]}...") or "(nothing)"
