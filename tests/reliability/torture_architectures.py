"""Every verb on tiny random models of every family, in every class that this TransformerLens has.

    python tests/reliability/torture_architectures.py [--out cells.jsonl] [--families llama,gpt2]

Each cell is compared with plain modules of transformers (`plain.py`). Cells go to a file of JSON
lines, by versions, so that a run with another TransformerLens adds to them; `--write` puts the table
of all of them into docs/evidence/architectures.md.
"""

import argparse
import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch
import transformers
from architecture_cells import CELLS, Absent, Subject, Wrong
from conftest import HAS_BRIDGE, tokenizer
from families import FAMILIES, Family
from plain import named, own_truth, plain_truth, untouched
from state import snapshot

from tl_steer.errors import SteerError

RIGHT, REFUSED, DIFFERS, ABSENT = "right", "refused", "differs", "absent"
WRONG, CRASH = "WRONG", "CRASH"


@dataclass(frozen=True)
class Cell:
    """How one question to one model ended."""

    family: str
    kind: str
    cell: str
    outcome: str
    note: str
    lens: str
    seconds: float


def bridged(family: Family, *, compatibility: bool = False, **how: Any) -> Subject:
    from transformer_lens.model_bridge import TransformerBridge

    dtype = how.pop("dtype", torch.float32)
    module = family.make(**how).to(dtype)
    plain, names = untouched(module), named(module)
    model = TransformerBridge.boot_transformers(
        "tiny", hf_model=module, tokenizer=tokenizer(), dtype=dtype
    )
    if compatibility:
        model.enable_compatibility_mode()
    model.eval()
    plain_one = plain_truth(plain, names, model)

    def again(**more: Any) -> Subject:
        return bridged(family, compatibility=compatibility, **(how | more))

    inner = own_truth(model) if compatibility else plain_one
    return Subject(model, plain_one, inner, again, None if compatibility else plain)


def kinds() -> list[str]:
    return ["raw", "compat"] if HAS_BRIDGE else []


def made(family: Family, kind: str) -> Subject:
    return bridged(family, compatibility=kind == "compat")


def agrees(subject: Subject) -> float:
    """How far the unsteered model is from transformers, in nats; then its own truth is itself."""
    own = own_truth(subject.model)
    off = 0.0
    for row in subject.tokens.rows():
        there, here = subject.truth(row[None])[0], own(row[None])[0]
        off = max(off, float((there - here).abs().max()))
    if not off < 1e-3:
        subject.truth = subject.inner = own
    return off


def asked(name: str, kind: str, cells: Sequence[str]) -> Iterator[Cell]:
    """All cells of one model."""

    def ended(cell: str, outcome: str, note: str = "", start: float = 0.0) -> Cell:
        spent = round(time.perf_counter() - start, 2) if start else 0.0
        return Cell(name, kind, cell, outcome, note[:600], version("transformer_lens"), spent)

    try:
        subject = made(FAMILIES[name], kind)
    except Exception as error:  # not of tl_steer: nothing of it has run
        yield ended("made", ABSENT, f"{type(error).__name__}: {error}".split("\n")[0])
        return
    try:
        off = agrees(subject)
    except SteerError as error:
        yield ended("unsteered", REFUSED, str(error))
    except Exception as error:  # an encoder-decoder: it has to be refused
        yield ended("unsteered", ABSENT, f"{type(error).__name__}: {error}".split("\n")[0])
    else:
        yield ended("unsteered", RIGHT if off < 1e-3 else DIFFERS, f"{off:.1e} nats")
    changed = []
    for cell in cells:
        start = time.perf_counter()
        before = _state(subject.model)
        outcome, note = _outcome(subject, cell)
        yield ended(cell, outcome, note, start)
        after = _state(subject.model)
        changed += [f"{cell}: {key}" for key in before if before[key] != after[key]]
    yield ended("state", WRONG if changed else RIGHT, ", ".join(changed))


def _state(model: Any) -> dict[str, Any]:
    inside = getattr(model, "original_model", model)
    modes = [m.training for m in inside.modules()]
    return snapshot(model) | {"modes inside": modes}


def _outcome(subject: Subject, cell: str) -> tuple[str, str]:
    subject.notes.clear()
    try:
        CELLS[cell](subject)
    except Absent as why:
        return ABSENT, str(why)
    except Wrong as wrong:
        return WRONG, str(wrong)
    except SteerError as error:
        return REFUSED, f"{type(error).__name__}: {error}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        inside = next((f for f in reversed(where) if "tl_steer" in f.filename), where[-1])
        place = f"{Path(inside.filename).name}:{inside.lineno}"
        return CRASH, f"{type(error).__name__} at {place}: {str(error)[:400]}"
    return RIGHT, "; ".join(dict.fromkeys(subject.notes))


def main() -> None:
    given = _arguments()
    families = given.families.split(",") if given.families else list(FAMILIES)
    cells = given.cells.split(",") if given.cells else list(CELLS)
    begun = time.perf_counter()
    with given.out.open("w") as file:
        for name in families:
            for kind in given.kinds.split(",") if given.kinds else kinds():
                for cell in asked(name, kind, cells):
                    file.write(json.dumps(asdict(cell)) + "\n")
                    if cell.outcome not in (RIGHT, ABSENT) or given.all:
                        print(name, kind, cell.cell, cell.outcome, cell.note, sep=" | ", flush=True)
                file.flush()
    print(f"{time.perf_counter() - begun:.0f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("cells.jsonl"))
    parser.add_argument("--families", default="")
    parser.add_argument("--kinds", default="")
    parser.add_argument("--cells", default="")
    parser.add_argument("--all", action="store_true")
    return parser.parse_args()


def _quiet() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    _quiet()
    main()
