"""How fast learning vectors is on one GPU, how much of the card it uses, and what is in the way.

    make bench-gpu            # or: python tests/benchmarks/gpu.py --out gpu.jsonl

Random weights of known shapes: 7B (32 layers of 4096, ten of them between source and target) and
1.8B (24 of 2048; eight). Each row stands alone: what fails is written down with its error,
and the rest goes on; what would overrun its time is stopped, and says how many of its steps were
timed. Rows go to a file of JSON lines as they come, and the table is printed at the end.

A step is one pass forward and backward for every vector. Its operations are counted as 2 a weight
and token forward and 2 backward (weights get no gradients), over the rate of a measured product of
8192 x 8192 matrices in the same precision. `--tiny` runs every row on small models, to see that
they run (rows of CUDA graphs need a card all the same); `--only` picks rows by parts of their
names.
"""

import argparse
import functools
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gpu_cost
import gpu_looks as looks
import gpu_rows as rows
import torch
from gpu_bench import BF16, FP32, Bench, Figures
from gpu_models import room
from gpu_page import page
from page import keep, runs_in, table, write_section

Row = tuple[str, Callable[[Bench], Figures], float]


class TooLong(BaseException):
    """A row's time is over. No `Exception`, so that nobody takes it for one."""


def cost(bench: Bench) -> Figures:
    """Points for `scale.py`, which fits a law to them."""
    points = gpu_cost.TINY if bench.tiny else gpu_cost.POINTS
    dtype = FP32 if bench.device == "cpu" else BF16
    return {"points": gpu_cost.measured(points, dtype, bench.device)}


def all_rows() -> list[Row]:
    """The most important first, and those of one model together; seconds that each may take."""
    do = functools.partial
    seven = {"name": "7b", "n": 512}
    one = {"name": "1.8b", "n": 100}
    return [
        ("ceilings", rows.ceilings, 20),
        ("7b bf16 dct", do(rows.dct, dtype=BF16), 40),
        ("7b bf16 power", do(rows.search, name="7b", dtype=BF16, method=rows.Power(), n=512), 25),
        ("7b bf16 waits", do(looks.waits, **seven), 10),
        ("7b bf16 profile", do(looks.profile, **seven), 20),
        ("7b bf16 graph", do(looks.recorded, **seven), 15),
        ("7b bf16 passes", do(looks.passes, **seven), 15),
        ("7b bf16 elicit", rows.front_door, 25),
        ("7b fp32 dct", do(rows.dct, dtype=FP32, vec_batch=128), 60),
        ("7b tf32 dct", do(rows.dct, dtype=FP32, vec_batch=128, precision="high"), 20),
        ("7b fp32 power", do(rows.search, name="7b", dtype=FP32, method=rows.Power(), n=512), 20),
        ("7b fp32 segment in tf32", rows.in_tf32, 8),
        ("1.8b bf16 melbo", do(rows.melbo, graph=False), 40),
        ("1.8b bf16 melbo graph", do(rows.melbo, graph=True), 25),
        ("1.8b bf16 power", rows.power_to_melbo, 8),
        ("1.8b bf16 waits", do(looks.waits, **one), 5),
        ("1.8b bf16 profile", do(looks.profile, **one), 15),
        ("1.8b bf16 graph", do(looks.recorded, **one), 10),
        ("1.8b bf16 passes", do(looks.passes, **one), 10),
        ("1.8b bf16 plain", do(looks.plain, mode=None), 10),
        ("1.8b bf16 compiled", do(looks.compiled, mode="default"), 60),
        ("1.8b bf16 plain compiled", do(looks.plain, mode="default"), 40),
        ("1.8b bf16 fused prompts", looks.fused, 8),
        ("cost", cost, 25),
        ("1.8b bf16 compiled graphs", do(looks.compiled, mode="reduce-overhead"), 60),
        ("1.8b bf16 plain graphs", do(looks.plain, mode="reduce-overhead"), 40),
    ]


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Whatever runs inside is stopped after that time."""

    def stop(*_: object) -> None:
        raise TooLong(f"stopped after {seconds:.0f} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def measured(bench: Bench, row: Row, seconds: float) -> Figures:
    """A row's figures, or why there are none."""
    _, work, most = row
    most = min(most, seconds)
    ends = time.perf_counter() + most
    bench.left = lambda: ends - time.perf_counter()
    try:
        with at_most(most + 10):
            return work(bench)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        said = "".join(traceback.format_exception(error)[-6:])
        return {"error": f"{type(error).__name__}: {str(error)[:300]}", "trace": said[-1800:]}


def card(device: str) -> Figures:
    found = {"torch": torch.__version__, "card": "CPU"}
    return found if device == "cpu" else found | {"card": torch.cuda.get_device_name()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models: only see that it runs")
    parser.add_argument("--seconds", type=float, default=280, help="for all rows together")
    parser.add_argument("--only", nargs="+", default=[], help="parts of rows' names")
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks.md from --out")
    given = parser.parse_args()
    if given.page:
        return write_section("benchmarks.md", "gpu", page(runs_in(given.out)))
    if given.device != "cpu" and not torch.cuda.is_available():
        return print("There is no GPU here, so nothing is measured.")
    run(given)
    print(text(runs_in(given.out)))


def run(given: argparse.Namespace) -> None:
    """Row after row, while there is time."""
    bench, began = Bench(given.device, given.tiny), time.perf_counter()
    for row in all_rows():
        if given.only and not any(part in row[0] for part in given.only):
            continue
        left = given.seconds - (time.perf_counter() - began)
        at = time.perf_counter()
        found = measured(bench, row, left) if left > 5 else {"error": "no time was left"}
        room(given.device)
        line = {"row": row[0], "took_s": round(time.perf_counter() - at, 1), **card(given.device)}
        keep(given.out, line | found)
        print(json.dumps(line | found, default=str)[:600], flush=True)


def text(lines: list[dict[str, Any]]) -> str:
    """A table of the newest of each row, and what is not in columns below it."""
    newest = {line["row"]: line for line in lines}
    names = ("all_steps_s", "steps", "step_s", "vector_steps_s", "tflops", "share", "peak_gb")
    cells = [
        [row, *(line.get(name, "") for name in names), line.get("error", line.get("note", ""))]
        for row, line in newest.items()
    ]
    columns = ["", "s", "steps", "s a step", "vector-steps / s", "TFLOP/s", "of the card", "GB", ""]
    shown = {*names, "row", "card", "torch", "note", "error", "trace", "took_s"}
    rest = [
        f"- {row}: " + json.dumps({k: v for k, v in line.items() if k not in shown})
        for row, line in newest.items()
        if not shown >= set(line)
    ]
    cards = sorted({f"{line['card']}, torch {line['torch']}" for line in lines})
    return "\n\n".join(["; ".join(cards), table(columns, cells), "\n".join(rest)])


if __name__ == "__main__":
    main()
