"""How long until one can begin: imports, help, the embedded model.

    python tests/benchmarks/startup.py

CPU seconds, user and system, each in a process of its own and in turns: wall time on a machine
that does something else says little. Files are in the system's cache after the first round, which
is left out. Writes docs/benchmarks.md.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from statistics import median

from page import table, write_section

# Prints what it measured, by the names of `ROWS` and more, as JSON.
CLOCK = """
import json, os
def now():
    spent = os.times()
    return spent.user + spent.system
found, began = {}, now()
def told(name):
    global began
    ended = now()
    found[name] = ended - began
    began = now()
"""
IMPORTS = CLOCK + "import transformer_lens; told('lens'); import tl_steer; told('ours')"
MODEL = (
    CLOCK
    + """
import transformer_lens, tl_steer as ts
ts.load_model; told('before')
import transformers.models.llama.modeling_llama, transformers.models.auto.modeling_auto
told('transformers')
ts.load_model(); told('first')
ts.load_model(); told('again')
"""
)
PRINT = "\nprint(json.dumps(found))"
ROWS = {
    "lens": "`import transformer_lens`",
    "ours": "`import tl_steer` on top of it",
    "help": "`tl-steer --help`",
    "transformers": "what transformers imports for the embedded model, once a process",
    "first": "`ts.load_model()` behind that, the first in a process",
    "again": "`ts.load_model()`, the second",
}


def child(*command: str) -> tuple[float, str]:
    """CPU seconds of a process, and what it printed."""
    before = os.times()
    quiet = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=True, env=quiet
    )
    after = os.times()
    spent = after.children_user + after.children_system
    return spent - before.children_user - before.children_system, done.stdout


def once() -> Mapping[str, float]:
    found: dict[str, float] = {}
    for code in (IMPORTS, MODEL):
        found |= json.loads(child("-c", code + PRINT)[1].splitlines()[-1])
    found["help"], _ = child("-m", "tl_steer", "--help")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    once()  # fills the caches
    runs = [once() for _ in range(rounds)]
    rows = []
    for name, what in ROWS.items():
        spent = sorted(run[name] for run in runs)
        rows.append((what, f"{median(spent):.2f}", f"{spent[0]:.2f} to {spent[-1]:.2f}"))
    cells = table(("", "CPU s, median", "range"), rows)
    command = "`python tests/benchmarks/startup.py`"
    write_section("benchmarks.md", "startup", f"{cells}\n\n{rounds} rounds, {command}.")


if __name__ == "__main__":
    main()
