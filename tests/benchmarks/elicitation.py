r"""How fast, how thrifty and how varied elicitation is, beside the packages it replaces.

    pip install --no-deps batched-melbo==0.1.1     # the original MELBO code, and a batched one
    make bench-long                                # or: python tests/benchmarks/elicitation.py

Three parts: `speed` (against both contenders), `rate` (against bare matrix products) and
`diversity` (what `Power(spread=...)` buys). All on SmolLM2-135M-Instruct; contenders take turns in
one process, so that whatever else the machine does hits all of them, and medians are reported.
The whole run writes docs/benchmarks.md, anew after every part; `--only` prints and writes nothing
unless `--output` is given; `--quick` checks that everything runs and means nothing else.

What is compared: everyone adds a vector to the residual stream after block 7 and maximises MELBO's
objective (p = q = 2) after block 20, at all tokens but BOS. In a Llama block a bias of the MLP's
down projection, which is where the original adds it, is the same thing. Final objectives of all
contenders are evaluated by one and the same `tl_steer` objective.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from page import table, timed
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForCausalLM, AutoTokenizer

import tl_steer
from tl_steer.elicitation.elicit import positions_to_measure
from tl_steer.hook_points.positions import LAST_THREE, Positions
from tl_steer.methods import Power
from tl_steer.models.gguf import converted
from tl_steer.models.load import embedded_gguf
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen
from tl_steer.models.tokens import tokenize
from tl_steer.models.unbridged import called
from tl_steer.objectives.compiled import compiled
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.neighbours import distinct_rows
from tl_steer.perturbations.sphere import random_on_sphere
from tl_steer.radii.rules import Calibrated

SOURCE_LAYER, TARGET_LAYER = 7, 20
SOURCE = f"blocks.{SOURCE_LAYER}.hook_resid_post"
TARGET = f"blocks.{TARGET_LAYER}.hook_resid_post"
WITHOUT_BOS = Positions(last=None, bos=False)
QUESTIONS = (
    "How do I make my house safer?",
    "Tell me about the history of Rome.",
    "What should I cook tonight?",
    "Can you help me write a letter to my landlord about a leaking roof?",
)
CONTENDERS = ("original", "batched", "tl_steer")
# What docs/benchmarks.md is held against.
TIMES_ORIGINAL, TIMES_BATCHED, RATE = 250, 100, 0.95


@dataclass(frozen=True)
class Sizes:
    """How much is run. `quick()` only checks that it runs."""

    vectors: int = 16
    steps: int = 300
    trained: tuple[tuple[int, int], ...] = ((1, 2), (4, 1))  # (prompts, vectors of the original)
    short_rounds: int = 3
    ratios: int = 7
    rate_vectors: tuple[int, ...] = (4, 8, 16, 32)
    diverse: int = 32
    power_steps: int = 12
    long_steps: int = 20

    @staticmethod
    def quick() -> "Sizes":
        return Sizes(4, 3, ((1, 1), (4, 1)), 1, 1, (2,), 4, 2, 2)


# ---------------------------------------------------------------------------------------------
# Contenders


def plain_model() -> tuple[Any, Any]:
    """The same weights and tokenizer as `tl_steer.load_model()`, without hooks."""
    folder = converted(embedded_gguf())
    return (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )


def package_module(name: str) -> ModuleType:
    """A module of `batched-melbo` by location: its package needs nothing else of what it lists."""
    found = importlib.util.find_spec("batched_melbo")
    if found is None or not found.submodule_search_locations:
        sys.exit("The contenders are missing: pip install --no-deps batched-melbo==0.1.1")
    path = Path(found.submodule_search_locations[0]) / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"bench_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def quiet_on_cpu() -> Iterator[list[Tensor]]:
    """Drop progress bars, and the original's hard-coded device="cuda". Yields what it draws."""
    randn, drawn = torch.randn, []

    def on_cpu(*args: Any, **kwargs: Any) -> Tensor:
        drawn.append(randn(*args, **{**kwargs, "device": "cpu"}))
        return drawn[-1].clone()

    with contextlib.redirect_stderr(io.StringIO()), mock.patch.object(torch, "randn", on_cpu):
        yield drawn


@contextlib.contextmanager
def step_stamps() -> Iterator[list[float]]:
    """When each optimiser step ended, whoever's optimiser it is."""
    stamps: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: stamps.append(time.perf_counter()))
    try:
        yield stamps
    finally:
        handle.remove()


@dataclass
class Training:
    """What a contender's `train` left behind."""

    vectors: Tensor
    seconds: float
    step_seconds: list[float]
    drawn: list[Tensor]


class Contender:
    """One of the two trainers of `batched-melbo` on a plain model."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.package = package_module(f"{name}_melbo")

    def train(
        self, texts: list[str], vectors: int, *, radius: float, steps: int, seed: int
    ) -> Training:
        """Train, with a fresh optimiser and fresh random starts."""
        common = {
            "source_layer_idx": SOURCE_LAYER,
            "target_token_idxs": slice(1, None),
            "layers_name": "model.layers",
            "normalization": radius,
            "num_steps": steps,
            "power": 2,
            "q": 2,
        }
        # A bias that an earlier run of the original left in the model must not count.
        self.model.model.layers[SOURCE_LAYER].mlp.down_proj.bias = None
        make: Callable[..., Any]
        if self.name == "original":  # hidden_states[i] is the output of block i - 1
            make, target = self.package.SteeredModel, TARGET_LAYER + 1
        else:  # it adds the 1 itself
            make, target = self.package.BatchedMELBO, TARGET_LAYER
        trainer = make(self.model, self.tokenizer, target_layer_idx=target, **common)
        torch.manual_seed(seed)
        with quiet_on_cpu() as drawn, step_stamps() as stamps:
            begin = time.perf_counter()
            trainer.train(texts, vectors)
            seconds = time.perf_counter() - begin
        gaps = [later - earlier for earlier, later in itertools.pairwise(stamps)]
        return Training(trainer.learned_vectors.detach().clone(), seconds, gaps, drawn)


@dataclass
class Climb:
    """A run of `Power`: mean objective of the paired vectors and time after every step, from before
    the segment on."""

    means: list[float]
    stamps: list[float]
    final_seconds: float

    def reach(self, mean: float) -> tuple[int, float] | None:
        """Step and seconds (with the last evaluation) at which the mean objective got there."""
        for step, (value, stamp) in enumerate(zip(self.means, self.stamps, strict=True), 1):
            if value >= mean:
                return step, stamp + self.final_seconds
        return None


class Ours:
    """tl_steer in one setting."""

    def __init__(self, model: Any, questions: tuple[str, ...], measured: Positions) -> None:
        self.model, self.measured = model, measured
        self.tokens = tokenize(model, [tl_steer.chat(question) for question in questions])
        self.objective = self.make()

    def make(self, vec_batch: int | None = None) -> Objective:
        """A new segment and its objective."""
        segment = Segment(self.model, self.tokens, SOURCE, TARGET)
        chosen = positions_to_measure(segment, self.measured)
        return Objective(segment, Displacement(p=2, q=2), chosen, vec_batch=vec_batch)

    def calibrated_radius(self) -> float:
        """DCT's calibrated radius, as its own package would choose it."""
        return float(Calibrated()(self.objective.segment, self.objective.measured, 0))

    def start(self, vectors: int, radius: float, seed: int) -> Additive:
        """Random vectors."""
        generator = torch.Generator().manual_seed(seed)
        width = self.objective.segment.source.width
        return self.edit(random_on_sphere(vectors, width, radius=radius, generator=generator))

    def edit(self, vectors: Tensor) -> Additive:
        """These vectors as a perturbation."""
        radius = float(vectors.norm(dim=1).mean())
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        return Additive(self.objective.segment.source, vectors.to(dtype), radius=radius)

    def values(self, vectors: Tensor) -> Tensor:
        """The objective of each vector."""
        return self.objective(self.edit(vectors), gradient=False).value

    def paired_start(self, vectors: int, radius: float, trained: int) -> Additive:
        """The starts that the original draws with seeds 0, 1, ..., and further random ones."""
        width = self.objective.segment.source.width
        drawn = [
            torch.randn(width, generator=torch.Generator().manual_seed(s)) for s in range(trained)
        ]
        more = self.start(vectors, radius, 0).vectors.detach()[trained:]
        rows = radius * torch.nn.functional.normalize(torch.stack(drawn), dim=1)
        return self.edit(torch.cat([rows[:vectors], more]))

    def climb(self, power: Power, start: Additive, paired: int) -> Climb:
        """Elicit, watching the clock and the mean objective of the first `paired` vectors."""
        begin = time.perf_counter()
        objective = self.make()
        means, stamps, last = [], [], None
        for last in power(objective, start):
            means.append(float(last.value[:paired].mean()))
            stamps.append(time.perf_counter() - begin)
        assert last is not None
        final, _ = timed(lambda: objective(last.perturbation, gradient=False))
        return Climb(means, stamps, final)


# ---------------------------------------------------------------------------------------------
# Measuring


class Neighbours:
    """How much of the machine other processes used meanwhile (Linux; elsewhere unknown)."""

    def __init__(self) -> None:
        self.begin = self._now()

    def share(self) -> str:
        """As a percentage of all CPUs, since this was made."""
        if self.begin is None:
            return "unknown"
        wall, busy, own = (b - a for a, b in zip(self.begin, self._now() or (), strict=True))
        return f"{max(0.0, busy - own) / (wall * (os.cpu_count() or 1)):.0%}"

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        if not Path("/proc/stat").exists():
            return None
        fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return time.perf_counter(), busy, sum(own[:4])


def memory_probe(name: str, prompts: int, vectors: int) -> None:
    """In a process of its own: print the peak above the loaded model, in MiB."""
    if name == "tl_steer":
        model = tl_steer.load_model()
        _touch(model)
        before = _resident("VmRSS")
        with frozen(model):
            ours = Ours(model, QUESTIONS[:prompts], WITHOUT_BOS)
            ours.climb(Power(steps=2), ours.start(vectors, 4.0, 0), vectors)
    else:
        plain, tokenizer = plain_model()
        _touch(plain)
        before = _resident("VmRSS")
        contender = Contender(name, plain, tokenizer)
        contender.train(rendered(tokenizer, prompts), vectors, radius=4.0, steps=2, seed=0)
    print(f"{_resident('VmHWM') - before:.0f}")


def _touch(model: Any) -> None:
    """Bring mapped weights into memory, and forget how much loading them took."""
    for parameter in model.parameters():
        parameter.detach().sum()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident(what: str) -> float:
    """VmRSS or VmHWM (peak) in MiB. A child's ru_maxrss would start at its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(x for x in status.read_text().splitlines() if x.startswith(what))
    return int(line.split()[1]) / 1024


def peak_memory(name: str, prompts: int, vectors: int) -> float:
    """MiB above the loaded model in two steps. The original trains one vector at a time."""
    count = 1 if name == "original" else vectors
    command = [sys.executable, __file__, "--memory", name, str(prompts), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def rendered(tokenizer: Any, prompts: int) -> list[str]:
    """The prompts as the contenders take them."""
    return [
        tokenizer.apply_chat_template(
            tl_steer.chat(question), tokenize=False, add_generation_prompt=True
        )
        for question in QUESTIONS[:prompts]
    ]


def assert_same_tokens(ours: Ours, tokenizer: Any, texts: list[str]) -> None:
    """Nobody gets an easier prompt."""
    for text, row in zip(texts, ours.tokens.rows(), strict=True):
        assert tokenizer([text])["input_ids"][0] == row.tolist(), text
    assert bool(ours.tokens.has_bos.all())


# ---------------------------------------------------------------------------------------------
# Speed


@dataclass
class Speed:
    """Everything measured in one setting."""

    prompts: int
    radius: float
    label: str
    trained: int
    vector_step: dict[str, list[float]] = field(default_factory=lambda: {c: [] for c in CONTENDERS})
    original_objective: list[float] = field(default_factory=list)
    original_seconds: list[float] = field(default_factory=list)
    climbs: dict[float, list[Climb]] = field(default_factory=dict)
    batched_steps: int = 0
    equal_wall: dict[str, tuple[int, float]] = field(default_factory=dict)  # steps, objective

    @property
    def setting(self) -> str:
        plural = "s" if self.prompts > 1 else ""
        return f"{self.prompts} prompt{plural}, radius {self.radius:.3g}{self.label}"

    @property
    def goal(self) -> float:
        return sum(self.original_objective) / len(self.original_objective)

    def original_total(self, sizes: Sizes) -> float:
        """The original, one vector after another."""
        return median(self.original_seconds) * sizes.vectors

    def batched_total(self, sizes: Sizes) -> float:
        """The batched package takes the original's steps, with the same optimiser."""
        return median(self.vector_step["batched"]) * sizes.vectors * sizes.steps

    def reached(self, spread: float) -> tuple[int, float] | None:
        """Steps and median seconds of ours to the original's objective."""
        found = [climb.reach(self.goal) for climb in self.climbs[spread]]
        hits = [hit for hit in found if hit is not None]
        return (hits[0][0], median(s for _, s in hits)) if len(hits) == len(found) else None


def measure_speed(
    model: Any, plain: tuple[Any, Any], prompts: int, trained: int, sizes: Sizes, auto: bool
) -> Speed:
    """One setting: short rounds for the time per step, then whole trainings."""
    ours = Ours(model, QUESTIONS[:prompts], WITHOUT_BOS)
    texts = rendered(plain[1], prompts)
    assert_same_tokens(ours, plain[1], texts)
    radius = ours.calibrated_radius() if auto else 4.0
    result = Speed(prompts, radius, " (calibrated)" if auto else "", trained)
    original, batched = Contender("original", *plain), Contender("batched", *plain)
    n = sizes.vectors
    start = ours.start(n, radius, 0)
    ours.objective(start)  # warm

    def note(name: str, seconds: list[float], vectors: int) -> None:
        result.vector_step[name] += [s / vectors for s in seconds]

    for seed in range(sizes.short_rounds):
        run = original.train(texts, 1, radius=radius, steps=3, seed=seed)
        note("original", run.step_seconds, 1)
        run = batched.train(texts, n, radius=radius, steps=3, seed=seed)
        result.batched_steps += len(run.step_seconds)
        note("batched", run.step_seconds, n)
        note("tl_steer", [timed(lambda: ours.objective(start))[0] for _ in range(2)], n)
    methods = {
        0.0: Power(steps=sizes.long_steps, spread=0.0, tolerance=1e-3),
        Power().spread: Power(steps=sizes.power_steps),
    }
    result.climbs = {spread: [] for spread in methods}
    paired = ours.paired_start(n, radius, trained)
    for seed in range(trained):
        for spread, power in methods.items():
            result.climbs[spread].append(ours.climb(power, paired, trained))
        run = original.train(texts, 1, radius=radius, steps=sizes.steps, seed=seed)
        drawn = torch.nn.functional.normalize(run.drawn[0], dim=0)
        assert torch.allclose(radius * drawn, paired.vectors.detach()[seed], atol=1e-4)
        result.original_seconds.append(run.seconds)
        result.original_objective += ours.values(run.vectors).tolist()
        for spread, power in methods.items():
            result.climbs[spread].append(ours.climb(power, paired, trained))
        print(f"  {result.setting}: original trained {seed + 1}/{trained}", flush=True)
    whole = median(climb.stamps[-1] for climb in result.climbs[0.0])
    for contender, count in ((original, trained), (batched, n)):
        steps = max(1, round(whole / n / median(result.vector_step[contender.name])))
        run = contender.train(texts, count, radius=radius, steps=steps, seed=0)
        result.equal_wall[contender.name] = (steps, float(ours.values(run.vectors).mean()))
    return result


def speed_tables(results: list[Speed], memory: dict[tuple[str, int], float], sizes: Sizes) -> str:
    """Time per step, time to the original's objective, memory."""
    per_step, to_goal = [], []
    for r in results:
        original, batched, ours = (median(r.vector_step[name]) for name in CONTENDERS)
        per_step.append(
            [
                *(r.setting, f"{original:.3f}", f"{batched:.3f}", f"{ours:.4f}"),
                *(f"{original / ours:.1f}", f"{batched / ours:.1f}"),
            ]
        )
        for spread, climbs in r.climbs.items():
            hit = r.reached(spread)
            best = median(climb.means[-1] for climb in climbs)
            whole = median(climb.stamps[-1] + climb.final_seconds for climb in climbs)
            to_goal.append(
                [r.setting, f"{r.goal:.0f} ({r.trained} trained)"]
                + [f"{r.original_total(sizes):.0f}", f"{r.batched_total(sizes):.0f}"]
                + [f"`Power(spread={spread:g})`"]
                + ([str(hit[0]), f"{hit[1]:.1f}"] if hit else ["not reached", "–"])
                + [f"{x / hit[1]:.0f}" if hit else "–" for x in totals(r, sizes)]
                + [f"{best:.0f} in {len(climbs[0].means)} steps, {whole:.1f} s"]
            )
    counts = sorted({prompts for _, prompts in memory})
    peaks = [
        [f"{prompts} prompt{'s' if prompts > 1 else ''}"]
        + [f"{memory[name, prompts]:.0f}" for name in CONTENDERS]
        for prompts in counts
    ]
    return "\n\n".join(
        [
            "Seconds per vector and optimiser step (medians):",
            table(
                ["setting", "original", "batched", "tl_steer", "original / ours", "batched / ours"],
                per_step,
            ),
            f"Seconds for {sizes.vectors} vectors, until those that start where the original's "
            f"start have its mean objective after {sizes.steps} steps:",
            table(
                [
                    *("setting", "goal", "original, s", "batched, s", "ours", "steps", "s"),
                    *("original / ours", "batched / ours", "ours at its end"),
                ],
                to_goal,
            ),
            "Mean objective after equal wall time (that of `Power(spread=0)` from start to end, "
            "shared evenly among vectors):",
            table(
                ["setting", "s", "original", "batched", "tl_steer"],
                [
                    [r.setting, f"{median(c.stamps[-1] for c in r.climbs[0.0]):.1f}"]
                    + [f"{value:.0f} in {k} steps" for k, value in r.equal_wall.values()]
                    + [f"{r.climbs[0.0][0].means[-1]:.0f} in {len(r.climbs[0.0][0].means)} steps"]
                    for r in results
                ],
            ),
            *([PEAK_INTRO, table(["setting", *CONTENDERS], peaks)] if peaks else []),
            speed_notes(results, sizes),
        ]
    )


PEAK_INTRO = (
    "Peak memory above the loaded model, MiB, in a process of its own with two steps "
    "(the original holds one vector at a time, the others all of them):"
)


def totals(r: Speed, sizes: Sizes) -> tuple[float, float]:
    """Seconds of the two contenders."""
    return r.original_total(sizes), r.batched_total(sizes)


def speed_notes(results: list[Speed], sizes: Sizes) -> str:
    """How to read the tables, and whether the targets are met."""
    met = [target_met(r, sizes) for r in results]
    lines = [
        f"- The goal is the mean over the vectors that the original trained for {sizes.steps} "
        "steps (how many is beside it; it trains one after another, so their median time is "
        f"scaled to {sizes.vectors}). It is evaluated, as everything here, by one tl_steer "
        "objective, summed over prompts.",
        f"- The batched package has the same optimiser and so needs the same {sizes.steps} steps. "
        f"Only its time per step is measured (over {results[0].batched_steps} steps) and "
        "multiplied. With several prompts it measures padding too and does not "
        "leave it out of its objective; it is timed there and nothing else.",
        "- Our seconds contain segment construction with its check, all steps and a last "
        "evaluation. Loading the model and tokenizing are not in them. Of our "
        f"{sizes.vectors} vectors as many start where the original's start, and the mean is "
        "theirs; the others are random and cost the same.",
        "- `Power` with the default spread gives up objective for variety, and the original has "
        f"no such term: `spread=0` (with tolerance 1e-3 and up to {sizes.long_steps} steps) is the "
        "like-for-like row.",
        f"- Target: at most 1/{TIMES_ORIGINAL} of the original's time and 1/{TIMES_BATCHED} of "
        f"the batched package's. **Met in {sum(met)} of {len(met)} settings** with `spread=0` or "
        "the default, whichever is faster"
        + ("." if all(met) else ": " + "; ".join(shortfalls(results, sizes)) + "."),
    ]
    return "\n".join(lines)


def best_ratios(r: Speed, sizes: Sizes) -> tuple[float, float] | None:
    """original / ours and batched / ours with the faster of the two methods."""
    hits = [hit for hit in (r.reached(spread) for spread in r.climbs) if hit is not None]
    if not hits:
        return None
    fastest = min(seconds for _, seconds in hits)
    original, batched = totals(r, sizes)
    return original / fastest, batched / fastest


def target_met(r: Speed, sizes: Sizes) -> bool:
    """Both targets at once."""
    found = best_ratios(r, sizes)
    return found is not None and found[0] >= TIMES_ORIGINAL and found[1] >= TIMES_BATCHED


def shortfalls(results: list[Speed], sizes: Sizes) -> list[str]:
    """What missed the targets, and by how much."""
    missed = []
    for r in results:
        found = best_ratios(r, sizes)
        if found is None:
            missed.append(f"{r.setting}: the objective was not reached")
        elif not target_met(r, sizes):
            missed.append(f"{r.setting}: 1/{found[0]:.0f} and 1/{found[1]:.0f}")
    return missed


# ---------------------------------------------------------------------------------------------
# Rate


def bare_products(plain: Any, vectors: int, length: int) -> Callable[[], None]:
    """Just the matrix products of one step: forward and input gradients of blocks 8 to 20."""
    rows = vectors * length
    blocks = plain.model.layers[SOURCE_LAYER + 1 : TARGET_LAYER + 1]
    linears = [m for block in blocks for m in block.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {size: torch.randn(rows, size) for m in linears for size in m.weight.shape}
    heads = plain.config.num_attention_heads
    per_head = torch.randn(vectors * heads, length, plain.config.hidden_size // heads)
    square = torch.randn(vectors * heads, length, length)

    @torch.no_grad()
    def work() -> None:
        for linear in linears:
            out_width, in_width = linear.weight.shape
            inputs[in_width] @ linear.weight.T
            inputs[out_width] @ linear.weight
        for _ in blocks:
            for _ in range(2):  # q k^T and the gradient of the weights
                torch.bmm(per_head, per_head.transpose(1, 2))
            for _ in range(4):  # weights v, and the gradients of q, k and v
                torch.bmm(square, per_head)

    return work


def as_written(objective: Any, step: Callable[[], Any]) -> Callable[[], Any]:
    """The same step with its blocks as they were written, inside of `compiled`."""
    blocks = objective.segment.unbridged.values()

    def run() -> Any:
        faster = [block.run for block in blocks]
        for block in blocks:
            block.run = called
        try:
            return step()
        finally:
            for block, how in zip(blocks, faster, strict=True):
                block.run = how

    return run


def rate_table(model: Any, plain: Any, sizes: Sizes) -> str:
    """One evaluation with gradient against its bare products."""
    ours = Ours(model, QUESTIONS[:1], WITHOUT_BOS)
    length = ours.tokens.ids.shape[1]
    rows, rates = [], {}
    for n in sizes.rate_vectors:
        objective, start = ours.make(vec_batch=n), ours.start(n, 4.0, 0)
        products = bare_products(plain, n, length)
        step = functools.partial(objective, start)
        torch._dynamo.reset()  # one graph for one number of rows, as in a search
        with compiled(objective, start):
            turns = [
                (timed(as_written(objective, step))[0], timed(step)[0], timed(products)[0])
                for _ in range(sizes.ratios + 1)
            ][1:]  # the first is for warming up
        rates[n] = median(bare / joined for _, joined, bare in turns)
        as_is = median(bare / whole for whole, _, bare in turns)
        seconds = [f"{median(column):.3f}" for column in zip(*turns, strict=True)]
        rows.append([str(n), *seconds, f"{as_is:.2f}", f"{rates[n]:.2f}"])
    wide = {n: rate for n, rate in rates.items() if n >= 8}
    met = [n for n, rate in wide.items() if rate >= RATE]
    verdict = (
        f"Target: at least {RATE} from 8 vectors on. **Met at {len(met)} of {len(wide)} sizes**"
        f" (lowest {min(wide.values()):.2f})."
        if wide
        else "No size of 8 or more was run."
    )
    return "\n\n".join(
        [
            f"One objective evaluation with gradient, one prompt of {length} tokens, against only "
            f"the matrix products it cannot do without (blocks {SOURCE_LAYER + 1} to "
            f"{TARGET_LAYER}, same shapes, same weights; attention's as plain products, unmasked). "
            f"Median of {sizes.ratios} ratios, taken in turn.",
            table(
                [
                    "vectors",
                    "step, s",
                    "`Compiled`, s",
                    "products, s",
                    "products / step",
                    "compiled",
                ],
                rows,
            ),
            verdict + " The rest is norms, activations, rotary embeddings, softmax and Python. "
            "`methods.Compiled` joins these; compiling is not in its seconds.",
        ]
    )


def dtype_table(model: Any, sizes: Sizes) -> str:
    """Seconds per vector-step by dtype of the model."""
    half = tl_steer.load_model(dtype=torch.bfloat16)
    # Few: a processor without bfloat16 units takes seconds per vector.
    n, times = min(4, sizes.vectors), {"float32": [], "bfloat16": []}
    with frozen(half):
        both = {
            "float32": Ours(model, QUESTIONS[:1], WITHOUT_BOS),
            "bfloat16": Ours(half, QUESTIONS[:1], WITHOUT_BOS),
        }
        for turn in range(2):
            for name, ours in both.items():
                start = ours.start(n, 4.0, 0)
                seconds = timed(lambda o=ours, s=start: o.objective(s))[0] / n
                times[name] += [seconds] if turn else []
    rows = [[name, f"{median(seconds):.4f}"] for name, seconds in times.items()]
    seconds_by_dtype = table([f"model dtype, {n} vectors", "s per vector-step"], rows)
    return (
        "One objective evaluation with gradient; one prompt, all tokens but BOS.\n\n"
        f"{seconds_by_dtype}\n\n"
        "A processor without bfloat16 units takes many times as long in bfloat16."
    )


# ---------------------------------------------------------------------------------------------
# Diversity


def diversity_table(model: Any, sizes: Sizes) -> str:
    """What spread buys, beside random vectors."""
    ours, n, rows = Ours(model, QUESTIONS[:1], LAST_THREE), sizes.diverse, []
    for auto in (False, True):
        radius = ours.calibrated_radius() if auto else 4.0
        shown = f"{radius:.3g}{' (calibrated)' if auto else ''}"
        for spread in (0.0, 0.35, 0.7, 1.0):
            seconds, bank = timed(
                lambda r=radius, s=spread: tl_steer.elicitation.elicit(
                    model,
                    ours.tokens,
                    source=SOURCE,
                    target=TARGET,
                    n=n,
                    radius=r,
                    method=Power(spread=s, steps=sizes.power_steps),
                    progress=False,
                )
            )
            rows.append(
                _diversity_row(shown, f"{spread:g}", bank.objective, bank.responses, seconds)
            )
        seconds, control = timed(
            lambda r=radius: ours.objective(ours.start(n, r, 1), gradient=False)
        )
        order = control.value.argsort(descending=True)
        rows.append(
            _diversity_row(
                shown, "random vectors", control.value[order], control.response[order], seconds
            )
        )
        print(f"  diversity: radius {shown} done", flush=True)
    head = ["radius", "spread", "sum of objectives", "distinct at 0.9", "distinct at 0.7", "s"]
    return "\n\n".join(
        [
            f"{n} vectors, one prompt, measured at its last three tokens. Distinct: rows kept "
            "greedily, highest objective first, while the |cosine| of responses stays below the "
            "threshold. Random vectors are the control: they differ from each other too, and move "
            f"little. The default spread is {Power().spread:g}.",
            table(head, rows),
        ]
    )


def _diversity_row(
    radius: str, name: str, objective: Tensor, responses: Tensor, seconds: float
) -> list[str]:
    distinct = [str(len(distinct_rows(responses, threshold))) for threshold in (0.9, 0.7)]
    return [radius, name, f"{float(objective.sum()):.0f}", *distinct, f"{seconds:.1f}"]


# ---------------------------------------------------------------------------------------------
# The document


class Document:
    """Sections in their order; printed when done, and written anew each time."""

    ORDER = ("Speed", "Rate", "Precision", "Diversity")

    OTHERS = "## A step against a base"

    def __init__(self, output: Path | None, quick: bool) -> None:
        self.output, self.quick = output, quick
        self.sections: dict[str, str] = {}

    def put(self, name: str, text: str, neighbours: Neighbours) -> None:
        """Set a section, print it, and write everything that is there."""
        share = neighbours.share()
        self.sections[name] = (
            f"{text}\n\nOther processes used {share} of the machine's processors meanwhile."
        )
        print(f"\n## {name}\n\n{self.sections[name]}\n", flush=True)
        if self.output:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(self.text() + self._of_others())

    def _of_others(self) -> str:
        """The sections that other programs write, which come last."""
        there = self.output.read_text() if self.output and self.output.exists() else ""
        return "\n" + there[start:] if (start := there.find(self.OTHERS)) >= 0 else ""

    def text(self) -> str:
        """The page."""
        done = [name for name in self.ORDER if name in self.sections]
        warning = "**A quick run: these numbers mean nothing.**\n\n" if self.quick else ""
        return (
            f"# Benchmarks\n\n{warning}{self._intro()}\n\n"
            + "\n\n".join(f"## {name}\n\n{self.sections[name]}" for name in done)
            + "\n"
        )

    @staticmethod
    def _intro() -> str:
        return (
            "Written by `make bench-long` (`tests/benchmarks/elicitation.py`), which also says "
            "what is compared and how. It needs the two contenders, the original MELBO code and a "
            "batched rewrite of it, both in one package: "
            "`pip install --no-deps batched-melbo==0.1.1`.\n\n"
            f"SmolLM2-135M-Instruct on {os.cpu_count()} CPUs ({platform.machine()}, "
            f"{torch.get_num_threads()} threads), PyTorch {torch.__version__}, float32 unless "
            f"said. Vectors are added at `{SOURCE}` and measured at `{TARGET}`; for Speed and "
            "Rate at all tokens but BOS."
        )


def run(only: str | None, sizes: Sizes, document: Document) -> None:
    """All parts, the shortest first; the page has them in its own order."""
    model, plain = tl_steer.load_model(), plain_model()
    results: list[Speed] = []
    memory: dict[tuple[str, int], float] = {}

    def speed(prompts: int, trained: int, neighbours: Neighbours) -> None:
        for name in CONTENDERS:
            memory[name, prompts] = peak_memory(name, prompts, sizes.vectors)
        for auto in (False, True):
            results.append(measure_speed(model, plain, prompts, trained, sizes, auto))
            document.put("Speed", speed_tables(results, memory, sizes), neighbours)

    with frozen(model):
        if only in (None, "rate"):
            neighbours = Neighbours()
            document.put("Rate", rate_table(model, plain[0], sizes), neighbours)
        if only in (None, "diversity"):
            neighbours = Neighbours()
            document.put("Diversity", diversity_table(model, sizes), neighbours)
        if only in (None, "speed"):
            neighbours = Neighbours()
            for prompts, trained in sizes.trained:
                speed(prompts, trained, neighbours)
        if only in (None, "rate"):
            neighbours = Neighbours()
            document.put("Precision", dtype_table(model, sizes), neighbours)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Benchmarks of tl_steer's elicitation.")
    parser.add_argument("--only", choices=["speed", "rate", "diversity"], help="run just one part")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, to see that it runs")
    parser.add_argument(
        "--trained",
        nargs="+",
        metavar="PROMPTS:VECTORS",
        help="settings of the speed part, and how many vectors the original trains in each",
    )
    parser.add_argument("--output", type=Path, help="where to write (docs/benchmarks.md)")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        name, prompts, vectors = given.memory
        memory_probe(name, int(prompts), int(vectors))
        return
    page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    whole = given.only is None and not given.quick
    output = given.output or (page if whole else None)
    sizes = Sizes.quick() if given.quick else Sizes()
    if given.trained:
        pairs = [tuple(map(int, pair.split(":"))) for pair in given.trained]
        sizes = dataclasses.replace(sizes, trained=tuple((p, v) for p, v in pairs))
    run(given.only, sizes, Document(output, given.quick))


if __name__ == "__main__":
    main()
