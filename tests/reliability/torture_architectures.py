"""Every verb on tiny random models of every family, in every class that this TransformerLens has.

    python tests/reliability/torture_architectures.py [--out cells.jsonl] [--families llama,gpt2]

Each cell is compared with plain modules of transformers (`plain.py`). Cells go to a file of JSON
lines. The tables in docs/evidence/ are of all models and of these cells and those in `--merge`,
which a run with another TransformerLens has left.
"""

import argparse
import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch
import transformers
from architecture_cells import CELLS, Absent, Subject, Wrong
from architecture_table import (
    ABSENT,
    CRASH,
    DIFFERS,
    PAGE,
    REFUSED,
    RIGHT,
    WRONG,
    Cell,
    page,
    rows,
)
from conftest import HAS_BRIDGE, HAS_HOOKED, tokenizer
from evidence import write
from families import FAMILIES, Family
from plain import named, own_truth, plain_truth, untouched
from state import snapshot

from tl_steer.errors import SteerError

COMMANDS = ("make architectures",)
PROMISE = (
    "Every cell is what plain modules of transformers give, or a refusal whose sentence is true; "
    "architectures.md has them by family."
)


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
        return aside(bridged, family, compatibility=compatibility, **(how | more))

    inner = own_truth(model) if compatibility else plain_one
    return Subject(model, plain_one, inner, again, None if compatibility else plain)


def hooked(family: Family, **how: Any) -> Subject:
    """TransformerLens's older class, from the same weights.

    It knows models by public names only, so it is given one whose rules come from the config alone,
    and this model's config in the place of that one's.
    """
    import transformer_lens
    from transformer_lens import loading_from_pretrained as loading

    dtype = how.pop("dtype", torch.float32)
    module = family.make(**how).to(dtype)
    names = named(module)
    plain = untouched(module)
    config = mock.patch.object(loading.AutoConfig, "from_pretrained", return_value=module.config)
    with config:
        model = transformer_lens.HookedTransformer.from_pretrained_no_processing(
            "gpt2", hf_model=module, tokenizer=tokenizer(), dtype=dtype
        )
    model.eval()
    truth = plain_truth(plain, names, model)

    def again(**more: Any) -> Subject:
        return aside(hooked, family, **(how | more))

    return Subject(model, truth, own_truth(model), again)


def aside(make: Callable[..., Subject], *args: Any, **how: Any) -> Subject:
    """Making a model draws random numbers; those are not tl_steer's."""
    with torch.random.fork_rng(devices=[]):
        return make(*args, **how)


def kinds() -> list[str]:
    return ["raw", "compat"] * HAS_BRIDGE + ["hooked"] * HAS_HOOKED


def made(family: Family, kind: str) -> Subject:
    if kind == "hooked":
        return hooked(family)
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
    if not hasattr(model, "blocks"):  # an encoder-decoder, which nothing may touch
        return {"bits": [hash(p.detach().numpy().tobytes()) for p in model.parameters()]}
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


def run(
    families: Sequence[str], classes: Sequence[str], cells: Sequence[str], out: Path
) -> list[Cell]:
    """Every model in every class; written as it goes, for whoever looks on."""
    found = []
    with out.open("w") as file:
        for name in families:
            for kind in classes:
                for cell in asked(name, kind, cells):
                    found.append(cell)
                    file.write(json.dumps(asdict(cell)) + "\n")
                    if cell.failed:
                        print(name, kind, cell.cell, cell.verdict, cell.note, sep=" | ", flush=True)
                file.flush()
    return found


def main() -> None:
    given = _arguments()
    begun = time.perf_counter()
    cells = run(given.families, given.classes, given.cells, given.out)
    print(f"{len(cells)} cells, {time.perf_counter() - begun:.0f} s")
    if (given.families, given.classes, given.cells) != (list(FAMILIES), kinds(), list(CELLS)):
        return  # a part of the matrix is no evidence
    for path in given.merge:
        cells += [Cell(**json.loads(line)) for line in path.read_text().splitlines()]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(cells, COMMANDS), encoding="utf-8")
    write("Architectures", PROMISE, rows(cells), command=COMMANDS[0])


def _arguments() -> argparse.Namespace:
    def listed(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("architectures.jsonl"))
    parser.add_argument("--merge", type=Path, nargs="*", default=[])
    parser.add_argument("--families", type=listed, default=list(FAMILIES))
    parser.add_argument("--classes", type=listed, default=kinds())
    parser.add_argument("--cells", type=listed, default=list(CELLS))
    return parser.parse_args()


def _quiet() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    _quiet()
    main()
