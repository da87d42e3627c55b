"""What `radius="auto"` costs, beside the way of reading every radius with nothing shared.

    python tests/benchmarks/radius.py

Both seek the radius of the same prompts from the same seeds, in turn. The plain way brackets the
calibration by doubling and ends it with Brent's method, all directions at every radius; reads four
radii; runs every prompt once more for the next token's KL; and judges every text in a pass of its
own rows. Counted are tokens times blocks that run forwards, calls of blocks, and, for the first
case, the operations of all matrix products, forwards and backwards
(`torch.utils.flop_counter`). CPU seconds are of the process, one thread.
"""

import argparse
import contextlib
import functools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from page import table, write_section
from scipy.optimize import brentq
from torch.utils.flop_counter import FlopCounterMode

import tl_steer as ts
from tl_steer.hook_points.positions import LAST_THREE
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.state import frozen
from tl_steer.perturbations.sphere import random_on_sphere
from tl_steer.radii.inband import AUTO
from tl_steer.radii.rules import linear_response, nonlinearity

PROMPTS = (
    ("How do I make my house safer?",),
    ("Tell me about the history of Rome.",),
    ("Write a short poem about the sea and the wind.", "How do plants make food?"),
    ("What should I cook tonight?",),
)
PLACE = ("blocks.7.hook_resid_post", "blocks.20.hook_resid_post")


class Counts:
    """What runs through a model's blocks while it is open."""

    def __init__(self, model: Any) -> None:
        self.model, self.calls, self.tokens = model, 0, 0

    def __enter__(self) -> "Counts":
        hooks = {"with_kwargs": True}
        self._taken = [b.register_forward_pre_hook(self._count, **hooks) for b in self.model.blocks]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._taken:
            handle.remove()

    def _count(self, _block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = args[0] if args else kwargs["hidden_states"]
        self.calls += 1
        self.tokens += stream.shape[0] * stream.shape[1]


def doubled_and_ended_by_brent(segment: Any, measured: Any, seed: int) -> float:
    """The calibration as SciPy's `brentq` finds it."""
    generator = torch.Generator().manual_seed(seed)
    unit = random_on_sphere(30, segment.source.width, radius=1.0, generator=generator)
    linear, norm = linear_response(segment, unit, measured), segment.source_norm()

    @functools.cache
    def excess(place: float) -> float:
        return math.log(nonlinearity(segment, unit, linear, measured, math.exp(place)) / 0.5)

    here = math.log(0.2 * norm)
    step = math.log(2) * (1 if excess(here) < 0 else -1)
    while (excess(here) < 0) == (excess(here + step) < 0):
        here += step
    return math.exp(brentq(excess, *sorted((here, here + step)), xtol=2e-3))


@contextlib.contextmanager
def nothing_shared() -> Iterator[None]:
    """Inside, logits are not read off the last stream, on which all sharing rests."""
    with (
        mock.patch("tl_steer.radii.dose.readout_of", return_value=None),
        mock.patch("tl_steer.radii.fluency.readout_of", return_value=None),
    ):
        yield


def plain(segment: Any, measured: Any, seed: int) -> float:
    with nothing_shared():
        anchor = doubled_and_ended_by_brent(segment, measured, seed)
        found = AUTO.measure(segment, measured, seed, anchor)
    return found.band(tolerated=AUTO.tolerated).highest


WAYS: dict[str, Callable[..., float]] = {"every radius, nothing shared": plain, "ours": AUTO}


def sought(model: Any, texts: tuple[str, ...], seed: int, *, products: bool) -> dict[str, Any]:
    """One case: radius, counts and CPU seconds of each way."""
    found = {}
    tokens = ts.tokenize(model, [ts.chat(text) for text in texts])
    segment = ts.Segment(model, tokens, *PLACE)
    measured = LAST_THREE.measure(segment.mask, tokens.has_bos)
    for name, way in WAYS.items():
        with Counts(model) as counts:
            began = time.process_time()
            radius = way(segment, measured, seed)
            seconds = time.process_time() - began
        found[name] = [radius, counts.calls, counts.tokens, seconds]
        if products:
            with FlopCounterMode(display=False) as operations:
                way(segment, measured, seed)
            found[name].append(operations.get_total_flops() / 1e9)
        print(f"{texts[0][:20]}, seed {seed}, {name}: {found[name]}", flush=True)
    return found


def page(cases: list[tuple[tuple[str, ...], int, dict[str, Any]]]) -> str:
    before, ours = WAYS
    rows = []
    for texts, seed, found in cases:
        (r0, c0, t0, s0), (r1, c1, t1, s1) = found[before][:4], found[ours][:4]
        rows.append([
            f"{len(texts)}, seed {seed}", f"{r0:.4g}", f"{r1:.4g}", f"{r1 / r0 - 1:+.2%}",
            f"{t0:,}", f"{t1:,}", f"{t1 / t0:.2f}", f"{c1 / c0:.2f}", f"{s1 / s0:.2f}",
        ])  # fmt: skip
    columns = [
        "prompts", "radius, plain", "ours", "apart",
        "tokens x blocks, plain", "ours", "ratio", "calls of blocks, ratio", "CPU time, ratio",
    ]  # fmt: skip
    gflop = [cases[0][2][name][4] for name in WAYS]
    times = [found[ours][3] / found[before][3] for _, _, found in cases]
    return (
        '`python tests/benchmarks/radius.py`: `radius="auto"` on SmolLM2-135M-Instruct, '
        f"`{PLACE[0]}` to `{PLACE[1]}`, one thread, both ways in turn in one process.\n\n"
        + table(columns, rows)
        + f"\n\nMatrix products of the first case, forwards and backwards: {gflop[0]:,.0f} GFLOP "
        f"the plain way, {gflop[1]:,.0f} ours, {gflop[1] / gflop[0]:.2f} of it. Median ratio of "
        f"CPU time: {statistics.median(times):.2f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=len(PROMPTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = ts.load_model()
    with frozen(model):
        # What is asked of a model once, and remembered, is asked here.
        refuse_no_text(model)
        cases = [
            (texts, seed, sought(model, texts, seed, products=not seed))
            for seed, texts in enumerate(PROMPTS[: given.cases])
        ]
    write_section("radius.md", "what auto costs", page(cases))


if __name__ == "__main__":
    main()
