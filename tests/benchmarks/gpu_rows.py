"""The rows of `gpu.py`: what is measured, each a function of what all of them share."""

import functools
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_graph import Replayed
from gpu_models import (
    SHAPES,
    TINY,
    TOKENS,
    Made,
    Shape,
    clock,
    made,
    peak,
    prompts,
    room,
    seconds_of,
    segment_of,
    weights_of,
)
from torch import Tensor

import tl_steer as ts
from tl_steer.methods import Dct, Melbo, Power
from tl_steer.models.packed import Packed
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.radii.rules import Calibrated

Figures = dict[str, Any]
BF16, FP32 = torch.bfloat16, torch.float32
SHORT = {BF16: "bf16", FP32: "fp32"}


@dataclass
class Bench:
    """What rows share.

    Attributes:
        rates: the card's measured matrix-product rates by name, in FLOP/s.
        left: seconds that the running row may still take.
        reached: total objectives that others are held against.
    """

    device: str
    tiny: bool
    rates: dict[str, float] = field(default_factory=dict)
    left: Callable[[], float] = lambda: 60.0
    reached: dict[str, float] = field(default_factory=dict)
    _held: tuple[Any, Made | None] = (None, None)

    def shape(self, name: str) -> Shape:
        return (TINY if self.tiny else SHAPES)[name]

    def many(self, n: int) -> int:
        """As many vectors, or the few of a dry run."""
        return max(2, n // 32) if self.tiny else n

    def made(self, name: str, dtype: torch.dtype) -> Made:
        """That model; the one before goes, since two need not fit."""
        if self._held[0] != (name, dtype):
            self._held = (None, None)
            room(self.device)
            self._held = ((name, dtype), made(self.shape(name), dtype, self.device))
        assert self._held[1] is not None
        return self._held[1]

    def figures(self, of: Shape, seconds: float, n: int, tokens: int, rate: str) -> Figures:
        """Of a step of `n` vectors: how many a second, and how much of the card that takes."""
        flops = of.flops(n, tokens)
        share = (
            {"share": round(flops / seconds / self.rates[rate], 3)} if rate in self.rates else {}
        )
        return {
            "step_s": round(seconds, 5),
            "vector_steps_s": round(n / seconds, 1),
            "tflops": round(flops / seconds / 1e12, 2),
            **share,
        }


def ceilings(bench: Bench) -> Figures:
    """What the card does at the most: large matrix products of random numbers, and a copy."""
    n, found = 64 if bench.tiny else 8192, {}
    for name, dtype, precision in (
        ("bf16", BF16, "highest"),
        ("fp32", FP32, "highest"),
        ("tf32", FP32, "high"),
    ):
        torch.set_float32_matmul_precision(precision)
        a, b = (torch.randn(n, n, device=bench.device, dtype=dtype) for _ in range(2))
        bench.rates[name] = 2 * n**3 / seconds_of(lambda a=a, b=b: a @ b, bench.device, warm=3)
        found[f"{name}_tflops"] = round(bench.rates[name] / 1e12, 2)
    torch.set_float32_matmul_precision("highest")
    source = torch.randn(2**16 if bench.tiny else 2**30, device=bench.device)
    target = torch.empty_like(source)
    taken = seconds_of(lambda: target.copy_(source), bench.device)
    return found | {"copy_tb_s": round(2 * source.numel() * 4 / taken / 1e12, 3)}


def climbed(bench: Bench, of: Made, method: Any, objective: Any, n: int) -> Figures:
    """A method from its start; stopped when the row's time is over, and then it says so."""
    start, taken, last, stopped = of.start(n), [], None, False
    began = before = clock(bench.device)
    for last in method(objective, start):
        now = clock(bench.device)
        taken.append(now - before)
        before = now
        if stopped := bench.left() < 2 + 2 * taken[-1] and last.step < last.steps:
            break
    step, done = median(taken[1:] or taken), len(taken)
    rest = step * (last.steps - done) if stopped else 0.0
    return {
        "seconds": round(before - began, 3),
        "steps": f"{done} of {last.steps} steps timed" if stopped else done,
        "all_steps_s": round(before - began + rest, 2),
        "first_step_s": round(taken[0], 3),
        "step": step,
        "objective": float(last.value.sum()),
        "vectors": n,
    }


def search(bench: Bench, name: str, dtype: torch.dtype, method: Any, n: int, **how: Any) -> Figures:
    """A search as it is run, in passes of `vec_batch`, after one step to warm up.

    With precision="high", fp32 products may be rounded to TF32.
    """
    of, n = bench.made(name, dtype), bench.many(n)
    objective = of.objective(how.get("vec_batch"))
    precision = how.get("precision", "highest")
    with ts.models.frozen(of.model), peak(bench.device) as memory:
        torch.set_float32_matmul_precision(precision)
        try:
            objective(of.start(min(n, objective.vec_batch)))
            found = climbed(bench, of, method, objective, n)
        finally:
            torch.set_float32_matmul_precision("highest")
    rate = SHORT[dtype] if precision == "highest" else "tf32"
    step = found.pop("step")
    return {
        **found,
        **bench.figures(of.shape, step, n, TOKENS, rate),
        **memory,
        "vec_batch": objective.vec_batch,
        "dtype": rate,
    }


def dct(bench: Bench, dtype: torch.dtype, **how: Any) -> Figures:
    """512 factors at the calibrated radius; the calibration is timed beside it."""
    of = bench.made("7b", dtype)
    measured = of.objective().measured
    with ts.models.frozen(of.model):
        began = clock(bench.device)
        of.radius = Calibrated()(of.segment, measured, 0)
        calibration = clock(bench.device) - began
    return {
        "model_s": round(of.seconds, 2),
        "calibration_s": round(calibration, 2),
        "radius_share": round(of.radius / of.segment.source_norm(), 3),
        **search(bench, "7b", dtype, Dct(), 512, **how),
    }


def melbo(bench: Bench, *, graph: bool) -> Figures:
    """100 vectors, 1200 steps; with `graph`, the pass is recorded once and replayed."""
    of, n = bench.made("1.8b", BF16), bench.many(100)
    of.radius = 0.5 * of.segment.source_norm()
    # A step of AdamW is as long as at MELBO's own radius of 4.
    method = Melbo(steps=30 if bench.tiny else 1200, lr=1e-3 * of.radius / 4)
    objective = of.objective()
    with ts.models.frozen(of.model), peak(bench.device) as memory:
        objective(of.start(n))
        climb = Replayed(objective, of.start(n)) if graph else objective
        found = climbed(bench, of, method, climb, n)
    bench.reached["melbo"] = max(found["objective"], bench.reached.get("melbo", 0.0))
    return found | bench.figures(of.shape, found.pop("step"), n, TOKENS, "bf16") | memory


def power_to_melbo(bench: Bench) -> Figures:
    """Our default method, until its total is what MELBO's was."""
    of, n = bench.made("1.8b", BF16), bench.many(100)
    wanted = bench.reached.get("melbo")
    if wanted is None:
        return {"note": "MELBO reached nothing to compare with"}
    objective, steps = of.objective(), []
    with ts.models.frozen(of.model):
        for method in (Power(steps=40, tolerance=0.0), Power(steps=40, tolerance=0.0, spread=0)):
            began, totals = clock(bench.device), []
            for at in method(objective, of.start(n)):
                totals.append(float(at.value.sum()))
                if totals[-1] >= wanted or bench.left() < 1:
                    break
            taken = round(clock(bench.device) - began, 3)
            share = round(totals[-1] / wanted, 3)
            steps.append(f"spread {method.spread}: {share} of it in {len(totals)} steps, {taken} s")
    return {"melbo": wanted, "note": "; ".join(steps)}


def recorded(bench: Bench, name: str, n: int) -> Figures:
    """The same step of the same kernels, launched one by one and replayed from a CUDA graph."""
    of, n = bench.made(name, BF16), bench.many(n)
    objective, start = of.objective(), of.start(n)
    with ts.models.frozen(of.model), peak(bench.device) as memory:
        as_it_is = seconds_of(lambda: objective(start), bench.device)
        replayed = Replayed(objective, start)
        same = float((replayed(start).value / objective(start).value - 1).abs().max())
        taken = seconds_of(lambda: replayed(start), bench.device)
    found = bench.figures(of.shape, taken, n, TOKENS, "bf16")
    return found | {"launched_s": round(as_it_is, 5), "values_off": same} | memory


def passes(bench: Bench, name: str, n: int) -> Figures:
    """One step by size of pass."""
    of, n, found = bench.made(name, BF16), bench.many(n), {}
    with ts.models.frozen(of.model):
        for size in sorted({max(1, n // k) for k in (1, 2, 4, 16)}):
            objective = of.objective(size)
            with peak(bench.device) as memory:
                taken = seconds_of(
                    lambda o=objective: o(of.start(n)), bench.device, times=3, warm=1
                )
            share = bench.figures(of.shape, taken, n, TOKENS, "bf16").get("share")
            found[f"{size} a pass"] = [round(taken, 4), share, memory.get("peak_gb")]
    return found | {"note": "s, share of the rate, GB"}


def waits(bench: Bench, name: str, n: int) -> Figures:
    """Where a step of Power makes the host wait for the device."""
    of, n = bench.made(name, BF16), bench.many(n)
    objective = of.objective()
    with ts.models.frozen(of.model), warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        steps = iter(Power(steps=3, tolerance=0.0)(objective, of.start(n)))
        next(steps)
        if bench.device != "cpu":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            before = len(seen)
            next(steps)
        finally:
            if bench.device != "cpu":
                torch.cuda.set_sync_debug_mode("default")
    at = [w for w in seen[before:] if "synchroniz" in str(w.message)]
    where = Counter(f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}" for w in at)
    return {"waits": len(at), "where": dict(where.most_common(20))}


def profile(bench: Bench, name: str, n: int) -> Figures:
    """What one step spends its time on: on the device, and on launching."""
    from torch.profiler import ProfilerActivity, profile as profiling

    of, n = bench.made(name, BF16), bench.many(n)
    objective, start = of.objective(), of.start(n)
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if bench.device != "cpu" else [])
    with ts.models.frozen(of.model):
        plain = seconds_of(lambda: objective(start), bench.device, times=3)
        with profiling(activities=kinds) as seen:
            objective(start)
            clock(bench.device)
    events = seen.key_averages()
    on_device = {e.key[:60]: (e.count, _self(e)) for e in events if _self(e) > 0}
    busy = sum(us for _, us in on_device.values()) / 1e6
    host = sorted(events, key=lambda e: -e.self_cpu_time_total)[:12]
    return {
        "step_s": round(plain, 5),
        "device_busy_s": round(busy, 5),
        "device_busy": round(busy / plain, 3),
        "launches": sum(e.count for e in events if "Launch" in e.key),
        "device": [[k, c, round(us)] for k, (c, us) in _top(on_device)],
        "host": [[e.key[:60], e.count, round(e.self_cpu_time_total)] for e in host],
    }


def _self(event: Any) -> float:
    """Microseconds on the device; events of the host that stand for kernels do not count."""
    if "CUDA" not in str(getattr(event, "device_type", "CUDA")):
        return 0.0
    return float(event.self_device_time_total)


def _top(times: dict[str, tuple[int, float]]) -> list[tuple[str, tuple[int, float]]]:
    return sorted(times.items(), key=lambda item: -item[1][1])[:12]


def fused(bench: Bench) -> Figures:
    """Four prompts that share 20 of 27 tokens: apart, and in one row."""
    of, n, found = bench.made("1.8b", BF16), bench.many(100), {}
    asked = prompts(of.shape, 4, common=20)
    with ts.models.frozen(of.model):
        for what, kind in (("apart", None), ("one row", Packed)):
            more = {} if kind is None else {"kind": kind}
            segment = segment_of(of.model, of.shape, asked, **more)
            objective = Objective(segment, Displacement(), segment.mask)
            taken = seconds_of(lambda o=objective: o(of.start(n)), bench.device, times=3, warm=1)
            found[what] = round(taken, 4)
    return found | {"note": "s a step"}


def compiled(bench: Bench, mode: str) -> Figures:
    """The segment's blocks as they are hooked, compiled. Hooks that come later are not in it."""
    of, n = bench.made("1.8b", BF16), bench.many(100)
    objective, start = of.objective(), of.start(n)
    kept, found = of.segment.calls, {}
    torch._dynamo.config.cache_size_limit = 64
    call = torch.compile(
        lambda call, block, residual, vec: call(block, residual, vec), **how(bench, mode)
    )
    with ts.models.frozen(of.model), torch.compiler.set_stance("default"):
        found["launched_s"] = round(seconds_of(lambda: objective(start), bench.device), 5)
        began = clock(bench.device)
        try:
            of.segment.calls = {i: functools.partial(call, c) for i, c in kept.items()}
            objective(start)
            found["compile_s"] = round(clock(bench.device) - began, 1)
            taken = seconds_of(lambda: objective(start), bench.device)
        finally:
            of.segment.calls = kept
    return found | bench.figures(of.shape, taken, n, TOKENS, "bf16")


def plain(bench: Bench, mode: str | None) -> Figures:
    """Bare transformers blocks of the same shape, with fused attention: what hooks cost."""
    shape, n = bench.shape("1.8b"), bench.many(100)
    config = shape.config(num_hidden_layers=shape.blocks)
    model = weights_of(config, BF16, bench.device, attn_implementation="sdpa").model
    start = torch.randn(1, TOKENS, shape.width, device=bench.device, dtype=BF16)
    at = torch.arange(TOKENS, device=bench.device)[None]
    places = model.rotary_emb(start, at)
    layers = [torch.compile(x, **how(bench, mode)) if mode else x for x in model.layers]
    theta = torch.randn(n, shape.width, device=bench.device, requires_grad=True)

    def step() -> Tensor:
        if mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        stream = start.repeat(n, 1, 1) + theta[:, None].to(BF16)
        for layer in layers:
            out = layer(stream, position_embeddings=places)
            stream = out[0] if isinstance(out, tuple) else out
        value = (stream - start).float().square().sum(-1)[:, -3:].sum(-1).sqrt()
        return torch.autograd.grad(value.sum(), theta)[0]

    began = clock(bench.device)
    step()
    first = clock(bench.device) - began
    taken = seconds_of(step, bench.device)
    return {"compile_s": round(first, 1)} | bench.figures(shape, taken, n, TOKENS, "bf16")


def how(bench: Bench, mode: str | None) -> Figures:
    """Arguments of `torch.compile`; a dry run goes without a C++ compiler."""
    return {"backend": "aot_eager"} if bench.device == "cpu" else {"mode": mode}


def front_door(bench: Bench) -> Figures:
    """`elicit` with its defaults, radius and all."""
    of, n = bench.made("7b", BF16), bench.many(512)
    began = clock(bench.device)
    ends = (f"blocks.{i}.hook_resid_post" for i in (of.shape.source, of.shape.target))
    with peak(bench.device) as memory:
        bank = ts.elicit(
            of.model,
            prompts(of.shape, 1),
            *ends,
            n=n,
            radius=Calibrated(),
            progress=False,
        )
    return {"seconds": round(clock(bench.device) - began, 2), "vectors": len(bank)} | memory
