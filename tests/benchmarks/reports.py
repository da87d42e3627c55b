"""How large a report is, how long it takes to build and how soon it can be used.

    python tests/benchmarks/reports.py

Vectors are mixtures of 16 that were learned, of their length, so that each acts, and are inspected
on SmolLM2. CPU seconds are those of `report(...).html()`; the page is opened in Chromium, from the
start of the navigation until it takes a key, and until a tab of a vector is drawn. Rows are
scrolled from the top to the end, and a frame is late that takes more than 50 ms.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from browsing import CHROMIUM
from page import table, write_section
from playwright.sync_api import sync_playwright

import tl_steer as ts
from tl_steer.banks.generations import Generations
from tl_steer.inspection.result import AXES, Inspection

SOURCE, TARGET = "blocks.7.hook_resid_post", "blocks.20.hook_resid_post"
ASKED = "How do I make my house safer?"
SCROLL = """async () => {
  const gaps = [];
  const end = document.documentElement.scrollHeight;
  let last = performance.now();
  for (let y = 0; y < end; y += 1200) {
    scrollTo(0, y);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    gaps.push(now - last);
    last = now;
  }
  return gaps;
}"""


def mixtures(bank: ts.Bank, n: int) -> ts.Bank:
    """So many unit mixtures of a bank's vectors, at their radius."""
    mix = torch.randn(n, len(bank), generator=torch.Generator().manual_seed(0))
    vectors = torch.nn.functional.normalize(mix @ bank.vectors, dim=1) * bank.radius
    rows = [i % len(bank) for i in range(n)]
    return dataclasses.replace(bank[rows], vectors=vectors, numbers=tuple(range(n)))


def texts(bank: ts.Bank, found: Generations) -> Generations:
    """Texts for so many vectors; what is measured is the page, and not they."""
    rows = [i % len(found) for i in range(len(bank))]
    return dataclasses.replace(
        found,
        texts=tuple(found.texts[i] for i in rows),
        labels=("",) * len(bank),
        numbers=bank.numbers,
        origin=dataclasses.replace(found.origin, bank=bank.digest()),
    )


def first(seen: Inspection, bank: ts.Bank) -> Inspection:
    """An inspection of the first vectors alone."""
    n, starts = len(bank), {"vec": 0, "run": 1}
    parts = {
        name: getattr(seen, name)[: n + starts[axes.split()[0]]]
        for name, axes in AXES.items()
        if axes.split()[0] in starts and getattr(seen, name) is not None
    }
    told = {"vectors": seen.vectors[:n], "labels": seen.labels[:n], "bank": bank.digest()}
    return dataclasses.replace(seen, **parts, **told)


def measured(n: int, kept: Path) -> tuple[ts.Bank, Inspection, Generations]:
    """A learned bank, an inspection of so many mixtures, and texts; made once in a folder."""
    model, prompt = ts.load_model(), ts.chat(ASKED)
    if not (kept / "bank.safetensors").exists():
        ts.elicit(model, [prompt], source=SOURCE, target=TARGET, n=16, progress=False).save(
            kept / "bank.safetensors"
        )
    bank = ts.load_bank(kept / "bank.safetensors")
    if not (kept / f"{n}.safetensors").exists():
        ts.inspect(model, mixtures(bank, n), prompt, heads=8).save(kept / f"{n}.safetensors")
    seen = ts.inspection.load_inspection(kept / f"{n}.safetensors")
    return bank, seen, ts.generate(model, bank, [prompt], max_new_tokens=32)


def built(**results: Any) -> tuple[str, float]:
    """A page and the CPU seconds that it took."""
    began = time.process_time()
    page = ts.report(**results).html()
    return page, time.process_time() - began


def opened(browser: Any, page: str, *, vector: int | None) -> dict[str, float]:
    """Milliseconds until a page takes a key, until a tab is drawn, and late frames of a scroll."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(page, encoding="utf-8")
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tab.goto(path.as_uri(), wait_until="commit")
        tab.wait_for_function("performance.getEntriesByName('tl-steer-ready').length > 0")
        ready = tab.evaluate("performance.getEntriesByName('tl-steer-ready')[0].startTime")
        tab.wait_for_load_state()
        loaded = tab.evaluate(
            "performance.timing.loadEventEnd - performance.timing.navigationStart"
        )
        gaps = tab.evaluate(SCROLL)
        drawn = float("nan")
        if vector is not None:
            began = time.perf_counter()
            tab.goto(f"{path.as_uri()}#v{vector}/attention")
            tab.wait_for_selector("[role=grid]")
            drawn = 1000 * (time.perf_counter() - began)
        tab.close()
    late = sum(gap > 50 for gap in gaps) / len(gaps)
    return {"ready": ready, "loaded": loaded, "drawn": drawn, "late": late}


def row(browser: Any, name: str, page: str, cpu: float, vector: int | None) -> tuple[str, ...]:
    runs = [opened(browser, page, vector=vector) for _ in range(3)]
    seen = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    drawn = "–" if vector is None else f"{seen['drawn']:.0f} ms"
    size = f"{len(page.encode()) / 1e6:.1f} MB"
    late = f"{100 * seen['late']:.0f} %"
    return (
        name,
        size,
        f"{cpu:.1f} s",
        f"{seen['ready']:.0f} ms",
        f"{seen['loaded']:.0f} ms",
        drawn,
        late,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inspected", type=int, default=256)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--kept", type=Path, help="A folder for the bank and its inspection.")
    asked = parser.parse_args()
    kept = asked.kept or Path(tempfile.mkdtemp())
    kept.mkdir(exist_ok=True)
    bank, seen, found = measured(asked.inspected, kept)
    ts.report(bank[:2])  # what is read once is read
    rows = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for n in (8, 64, asked.inspected):
            few = mixtures(bank, asked.inspected)[:n]
            some = first(seen, few)
            page, cpu = built(bank=few, inspections=[some], generations=texts(few, found))
            rows.append(row(browser, f"{n} inspected", page, cpu, 1))
        many = mixtures(bank, asked.rows)
        page, cpu = built(bank=many, generations=texts(many, found))
        rows.append(row(browser, f"{asked.rows} rows", page, cpu, None))
        browser.close()
    names = ("report", "size", "CPU to build", "takes a key", "read whole", "a tab", "late frames")
    write_section("benchmarks.md", "reports", table(names, rows))


if __name__ == "__main__":
    main()
