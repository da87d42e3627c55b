"""What a bank of many vectors costs: seconds and memory to open, cut, sort, search, print and save.

    OMP_NUM_THREADS=1 python tests/benchmarks/big_banks.py --scratch /tmp

Each line is a process of its own, whose peak of memory is that of the call and not of those before;
it writes docs/evidence/big_banks.md. Memory is anonymous memory, which the machine has to have; the
mapped file's own pages, which it may drop at any time, are a column beside it. The vectors are
random, and responses of a thousand kinds, or all distinct.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from page import DOCS, table

import tl_steer as ts
from tl_steer.banks.provenance import Provenance
from tl_steer.hook_points import Site
from tl_steer.models.fingerprint import Fingerprint

WIDTH = 576
MARK = Fingerprint(tuple([1.0] * 48), WIDTH, 30, 49152, "float16")
SOURCE = Site("blocks.7.hook_resid_post", 7, "hook_resid_post", WIDTH)
TARGET = Site("blocks.22.hook_resid_post", 22, "hook_resid_post", WIDTH)

CALLS: dict[str, Callable[[ts.Bank, Path], Any]] = {
    "slice: `bank[: n // 2]`, no copy": lambda bank, _: bank[: len(bank) // 2],
    "slice: `bank[: n // 4]`, a copy": lambda bank, _: bank[: len(bank) // 4],
    "choose: `bank[1000 rows]`": lambda bank, _: bank[list(range(0, len(bank), len(bank) // 1000))],
    "`bank.sort()`": lambda bank, _: bank.sort(),
    "`bank.sort(most=100)`": lambda bank, _: bank.sort(most=100),
    "`repr(bank)`": lambda bank, _: repr(bank),
    "`repr(bank.sort(most=100))`": lambda bank, _: repr(bank.sort(most=100)),
    "`bank.like(bank[7])`": lambda bank, _: bank.like(bank[7]),
    "`bank.nearest(most=100)`": lambda bank, _: bank.nearest(most=100),
    "`bank.digest()`": lambda bank, _: bank.digest(),
    "`bank.save(...)`": lambda bank, scratch: bank.save(scratch / "again.safetensors"),
    "`bank.distinct()`": lambda bank, _: bank.distinct(),
}


def made(n: int, kinds: int, dtype: torch.dtype) -> ts.Bank:
    """`n` random vectors, with responses of so many kinds and a little noise."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.empty(n, WIDTH, dtype=dtype)
    responses = torch.empty(n, WIDTH, dtype=dtype)
    centres = torch.randn(kinds, WIDTH, generator=generator)
    for own, others in zip(vectors.split(4096), responses.split(4096), strict=True):
        own.copy_(torch.randn(own.shape, generator=generator))
        which = torch.randint(kinds, (len(own),), generator=generator)
        others.copy_(centres[which] + 0.1 * torch.randn(own.shape, generator=generator))
    return ts.Bank(
        vectors=vectors,
        responses=responses,
        objective=torch.rand(n, generator=generator),
        source=SOURCE,
        target=TARGET,
        radius=24.0,
        radius_share=0.3,
        provenance=Provenance(model="random", fingerprint=MARK),
    )


def kilobytes(name: str) -> int:
    """One of the sizes that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


class Peaks(threading.Thread):
    """The largest memory while something runs, looked at a hundred times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own, self.mapped, self.done = 0, 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.look()

    def look(self) -> None:
        self.own = max(self.own, kilobytes("RssAnon"))
        self.mapped = max(self.mapped, kilobytes("RssFile"))


def measured(path: Path, call: str) -> dict[str, float]:
    """Seconds of one call on a bank, or of opening it, and the megabytes that both took."""
    before = kilobytes("RssAnon"), kilobytes("RssFile")
    peaks = Peaks()
    peaks.start()
    began, spent = time.perf_counter(), time.process_time()
    bank = ts.load_bank(path, verify=call == "verify")
    if call in CALLS:
        began, spent = time.perf_counter(), time.process_time()
        CALLS[call](bank, path.parent)
    seconds, cpu = time.perf_counter() - began, time.process_time() - spent
    peaks.done.set()
    peaks.look()
    own, mapped = (peaks.own - before[0]) / 1024, (peaks.mapped - before[1]) / 1024
    return {"seconds": seconds, "cpu": cpu, "own": own, "mapped": mapped}


def line(path: Path, call: str) -> dict[str, float]:
    """`measured`, in a process of its own."""
    command = [sys.executable, __file__, "--one", call, "--scratch", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{path.name} {call}: {found}", file=sys.stderr, flush=True)
    return found


def rows_for(path: Path, calls: list[str]) -> list[list[str]]:
    """One row of the table for each call."""
    rows = []
    for call in calls:
        found = line(path, call)
        name = {"open": "`ts.load_bank(path)`", "verify": "`ts.load_bank(path, verify=True)`"}
        cells = [f"{found['seconds']:.2f}", f"{found['cpu']:.2f}"]
        cells += [f"{found['own']:.0f}", f"{found['mapped']:.0f}"]
        rows.append([name.get(call, call), *cells])
    return rows


HEAD = """# What a large bank costs

Vectors of width 576 and their responses in fp16, random, on one core that others share; one process
a line. *Memory* is what opening and the call take beside the program, at its peak; *mapped* are
pages of the file, which the system drops when it needs the room. Seconds contain the wait for the
disk and for others; those of the processor do not. `distinct` is the only one that grows with the
square, of the vectors that are kept. Written by

    OMP_NUM_THREADS=1 python tests/benchmarks/big_banks.py --scratch /tmp"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, required=True, help="a folder with 6 GB to spare")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.scratch, given.one)))
        return
    columns = ("", "seconds", "of the processor", "memory, MB", "mapped, MB")
    parts = [HEAD]
    for n, kinds, calls in (
        (given.vectors, 1000, ["open", "verify", *CALLS]),
        (100_000, 100_000, ["open", "`repr(bank)`", "`bank.distinct()`"]),
        (8_000, 8_000, ["open", "`repr(bank)`", "`bank.distinct()`"]),
    ):
        path = given.scratch / f"bank-{n}.safetensors"
        made(n, kinds, torch.float16).save(path)
        size = path.stat().st_size / 1e6
        parts += [f"## {n:,} vectors, responses of {kinds:,} kinds ({size:,.0f} MB)"]
        parts += [table(columns, rows_for(path, calls))]
        path.unlink()
    (given.scratch / "again.safetensors").unlink(missing_ok=True)
    (DOCS / "evidence" / "big_banks.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
