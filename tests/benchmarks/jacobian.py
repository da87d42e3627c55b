"""The matrix-free SVD of the Jacobian against the exact one, on SmolLM2-135M-Instruct, and where
it has more to save: on a model 2,048 wide with random weights.

    python tests/benchmarks/jacobian.py
    python tests/benchmarks/jacobian.py --wide

Exact: the whole Jacobian by reverse or forward products, whichever are fewer, in batches as large
and with the same shared forward pass as the method has, and its SVD. Loop: the same Jacobian one
output at a time (as `torch.autograd.functional.jacobian` goes), without the SVD; 32 outputs are run
and their time is scaled. All take turns; seconds are medians.
Also how near calibration comes to the ratio it was asked for.
"""

import argparse
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from gpu_models import Shape, prompts, segment_of, weights_of, words
from page import table, timed, write_section

import tl_steer as ts
from tl_steer.hook_points.positions import LAST_THREE
from tl_steer.methods import Jacobian
from tl_steer.models.load import wrap
from tl_steer.models.state import frozen
from tl_steer.objectives.divergence import Displacement, mean_response
from tl_steer.objectives.objective import Objective
from tl_steer.objectives.response import Derivative, ResponseMap, stacked_response
from tl_steer.perturbations.sphere import random_on_sphere
from tl_steer.radii.rules import linear_response, nonlinearity

SOURCE, TARGET, TOP = "blocks.7.hook_resid_post", "blocks.20.hook_resid_post", 16
WIDE = Shape(2, 2048, 1024, 16, 0, 1, vocabulary=1000)
WIDE_TOKENS = 40
PROMPT = "How do I make my house safer?"


def prepared(model: Any) -> tuple[Objective, ts.Additive]:
    tokens = ts.tokenize(model, [ts.chat(PROMPT)])
    segment = ts.Segment(model, tokens, SOURCE, TARGET)
    measured = LAST_THREE.measure(segment.mask, tokens.has_bos)
    # Passes of the same size for both, small enough for the cache.
    objective = Objective(segment, Displacement(), measured, vec_batch=16)
    generator = torch.Generator().manual_seed(0)
    rows = random_on_sphere(TOP, segment.source.width, radius=1.0, generator=generator)
    return objective, ts.Additive(segment.source, rows, radius=1.0)


def exact(objective: Objective, start: ts.Additive, pool: Callable[..., Any]) -> Any:
    linear = ResponseMap(objective, pool).derivative(start)
    if linear.k <= linear.width:
        matrix = linear.pull(torch.eye(linear.k))
    else:
        matrix = linear.push(torch.eye(linear.width)).T
    _, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return values[:TOP], right[:TOP]


def by_loop(objective: Objective, start: ts.Additive, pool: Callable[..., Any]) -> float:
    """Seconds for all outputs, one at a time."""
    linear, some = ResponseMap(objective, pool).derivative(start), 32
    rows = torch.eye(linear.k)[:some]
    seconds, _ = timed(lambda: [linear.pull(row[None]) for row in rows])
    return seconds * linear.k / some


def found_by(method: Jacobian, objective: Objective, start: ts.Additive) -> Any:
    iterate = deque(method(objective, start), maxlen=1).pop()
    return iterate.scores["singular value"].double(), iterate.perturbation.vectors.detach().double()


def angle(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest principal angle between two spans of orthonormal rows."""
    outside = b - (b @ a.T) @ a
    return math.asin(min(1.0, float(torch.linalg.matrix_norm(outside, 2))))


def wide_problem() -> tuple[Objective, ts.Additive]:
    model = wrap(
        weights_of(WIDE.config(), torch.float32, "cpu"),
        words(WIDE.vocabulary),
        name="random-llama",
        dtype=torch.float32,
    )
    segment = segment_of(model, WIDE, prompts(WIDE, 1, tokens=WIDE_TOKENS))
    tokens = segment.tokens
    measured = LAST_THREE.measure(segment.mask, tokens.has_bos)
    objective = Objective(segment, Displacement(), measured, vec_batch=64)
    generator = torch.Generator().manual_seed(0)
    rows = random_on_sphere(TOP, segment.source.width, radius=1.0, generator=generator)
    return objective, ts.Additive(segment.source, rows, radius=1.0)


@contextmanager
def counting() -> Iterator[list[int]]:
    """Products with the Jacobian or its transpose, batch by batch."""
    counts: list[int] = []
    batched = Derivative._batched

    def counted(self: Derivative, output: Any, wanted: Any, rows: torch.Tensor) -> torch.Tensor:
        counts.append(len(rows))
        return batched(self, output, wanted, rows)

    Derivative._batched = counted  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        Derivative._batched = batched  # type: ignore[method-assign]


def wide(rounds: int) -> str:
    """The exact SVD, the default, and what the default was: four passes of twice as many."""
    objective, start = wide_problem()
    methods = {
        "`Jacobian()`": Jacobian(signs=(1,), pool=mean_response),
        "`Jacobian(passes=4)`": Jacobian(passes=4, signs=(1,), pool=mean_response),
    }
    taken: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    counts: dict[str, list[int]] = {}
    with frozen(objective.segment.model):
        for _ in range(rounds):
            runs: dict[str, Callable[[], Any]] = {
                "exact": lambda: exact(objective, start, mean_response)
            } | {name: partial(found_by, m, objective, start) for name, m in methods.items()}
            for name, run in runs.items():
                with counting() as counts[name]:
                    began = time.process_time()
                    found[name] = run()
                    taken.setdefault(name, []).append(time.process_time() - began)
                print(name, counts[name], taken[name], flush=True)
    values, right = found["exact"]
    lines = []
    for name in found:
        seconds, products = median(taken[name]), sum(counts[name])
        worst = float(((found[name][0] - values).abs() / values).max())
        lines.append(
            [
                name,
                max(counts[name]) if name != "exact" else 64,
                products,
                f"{sum(counts['exact']) / products:.1f}",
                f"{seconds:.0f}",
                f"{median(taken['exact']) / seconds:.1f}",
                f"{worst:.1e}",
                f"{angle(right, found[name][1]):.1e}",
            ]
        )
    columns = ["", "in a batch", "products", "exact / ours", "CPU s", "exact / ours"]
    ratio = median(taken["exact"]) / median(taken["`Jacobian()`"])
    good = ratio >= 6 and float(lines[1][-1]) <= 1e-3 and float(lines[1][-2]) <= 1e-3
    return (
        f"`python tests/benchmarks/jacobian.py --wide --rounds {rounds}`: a Llama {WIDE.width} "
        f"wide with random weights, one block of {WIDE.weights / 1e6:.0f} M of them, one prompt of "
        f"{WIDE_TOKENS} tokens, the mean response of the last three; top {TOP} singular values. "
        "Exact: all rows of the Jacobian from one recorded forward pass in batches of 64, and its "
        "SVD. They take turns in one process. Target: a sixth of the exact time, singular values "
        f"and span within 1e-3: **{'met' if good else 'missed'}**.\n\n"
        + table([*columns, "worst singular value", "angle, rad"], lines)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print only")
    parser.add_argument("--wide", action="store_true", help="the wide model, and nothing else")
    given = parser.parse_args()
    if given.wide:
        text = wide(given.rounds)
        print(text) if given.dry else write_section("benchmarks.md", "jacobian", text)
        return
    model = ts.load_model()
    rows = []
    settings = [(None, None), (6, 8), (4, 16), (4, 32), (5, 32)]  # the default first
    with frozen(model):
        objective, start = prepared(model)
        for pool in (mean_response, stacked_response):
            rounds: dict[Any, list[Any]] = {}
            loops = []
            for _ in range(given.rounds):
                loops.append(by_loop(objective, start, pool))
                rounds.setdefault("exact", []).append(timed(exact, objective, start, pool))
                for passes, block in settings:
                    method = Jacobian(passes=passes, block=block, signs=(1,), pool=pool)
                    result = timed(found_by, method, objective, start)
                    rounds.setdefault((passes, block), []).append(result)
            values, right = rounds["exact"][0][1]
            whole = median(s for s, _ in rounds["exact"])
            for setting in settings:
                taken = median(s for s, _ in rounds[setting])
                near, rows_found = rounds[setting][0][1]
                worst = float(((near - values).abs() / values).max())
                rows.append(
                    [
                        pool.__name__,
                        *("chosen" if given is None else given for given in setting),
                        f"{worst:.2%}",
                        f"{angle(right, rows_found):.3f}",
                        f"{taken:.2f}",
                        f"{whole:.2f}",
                        f"{whole / taken:.1f}",
                        f"{median(loops) / taken:.1f}",
                    ]
                )
                print(rows[-1], flush=True)
        calibrated = calibration(objective)
    columns = ["pool", "passes", "block", "worst singular value", "angle, rad", "s", "exact, s"]
    text = (
        f"`python tests/benchmarks/jacobian.py`: top {TOP} singular values from {SOURCE} to "
        f"{TARGET}, one prompt, last three tokens. Targets: within 1%, under 0.05 rad, in under a "
        "tenth of the exact SVD's time.\n\n"
        + table([*columns, "exact / ours", "loop / ours"], rows)
    )
    if given.dry:
        print(text, calibrated)
    else:
        write_section("methods.md", "jacobian", text)
        write_section("methods.md", "calibration", calibrated)


def calibration(objective: Objective) -> str:
    segment, measured, rows = objective.segment, objective.measured, []
    for ratio in (0.25, 0.5, 1.0):
        rule = ts.radii.Calibrated(ratio=ratio)
        seconds, radius = timed(rule, segment, measured, 0)
        generator = torch.Generator().manual_seed(0)
        unit = random_on_sphere(rule.n, segment.source.width, radius=1.0, generator=generator)
        linear = linear_response(segment, unit, measured)
        got = nonlinearity(segment, unit, linear, measured, radius)
        share = radius / segment.source_norm()
        rows.append(
            [ratio, f"{got:.4f}", f"{got / ratio - 1:+.2%}", f"{share:.3f}", f"{seconds:.1f}"]
        )
    return (
        "`python tests/benchmarks/jacobian.py`: the nonlinear-to-linear ratio asked for and got. "
        "Target: within 1%.\n\n" + table(["asked", "got", "off by", "radius / norm", "s"], rows)
    )


if __name__ == "__main__":
    main()
