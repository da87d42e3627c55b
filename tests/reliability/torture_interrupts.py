"""Every public call interrupted at random lines and random times, on both model classes.

python tests/reliability/torture_interrupts.py [--each N]
"""

import argparse
import random
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

import interrupts
from conftest import KINDS
from evidence import Row, write

PROMISE = (
    "Afterwards hooks, weights, flags, modes, gradients, the random state and the signal's handler "
    "are what they were. *Raised* puts the exception at a line of the package, clean-ups included, "
    "where no handler can hold it back; *signal* sends a real SIGINT there; *any time* sends it "
    "from another thread. Twice: the second comes up to 40 lines or 10 ms later."
)
MODELS = [name for name in ("bridge-llama", "compat-gpt2", "hooked-llama") if name in KINDS]


def fresh(name: str) -> Any:
    """A model that has been through every call once: what a first call adds is no failure."""
    model = KINDS[name]()
    for verb in interrupts.VERBS.values():
        verb(model)
    return model


def cases(each: int, draw: random.Random) -> list[Row]:
    rows = []
    for name in MODELS:
        model = fresh(name)
        for way in interrupts.WAYS:
            for times in (1, 2):
                failures = []
                for verb in interrupts.VERBS:
                    for _ in range(each):
                        interrupt = interrupts.interrupt(model, verb, draw, way=way, times=times)
                        if left := interrupts.broken_by(model, verb, interrupt):
                            failures.append(f"{verb}: {', '.join(left)}")
                            model = fresh(name)
                what = f"{way}, {'once' if times == 1 else 'twice'}, {name}"
                cases_here = each * len(interrupts.VERBS)
                rows.append(Row(what, cases_here, len(failures), "; ".join(failures)[:200]))
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=4)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    rows = cases(parser.parse_args().each, random.Random(0))
    write("Ctrl-C", PROMISE, rows, command="python tests/reliability/torture_interrupts.py")


if __name__ == "__main__":
    main()
