"""What benchmark scripts share: a clock, and tables between markers in a documentation page, so
that every script writes its own part."""

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds, and what came out."""
    began = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - began, result


def keep(path: Path, line: Mapping[str, Any]) -> None:
    """Add a run to those that a file of JSON lines holds."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def runs_in(path: Path) -> list[dict[str, Any]]:
    """What `keep` has added; none where there is no file."""
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def write_section(page: str, name: str, text: str) -> None:
    """Replace what stands between the markers of section `name` on docs/`page`, and print it."""
    print(text)
    path = DOCS / page
    start, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    before = path.read_text()
    if not pattern.search(before):
        raise SystemExit(f"docs/{page} has no markers for section {name!r}")
    path.write_text(pattern.sub(lambda _: f"{start}\n\n{text}\n\n{end}", before))
