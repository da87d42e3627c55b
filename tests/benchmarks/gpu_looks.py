"""Single steps of `gpu.py`: what is in the way, and what would help."""

import functools
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from gpu_bench import BF16, Bench, Figures
from gpu_models import TOKENS, clock, peak, prompts, seconds_of, segment_of, weights_of
from torch import Tensor

import tl_steer as ts
from tl_steer.methods import Power
from tl_steer.models.packed import Packed
from tl_steer.models.segment import Segment
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.objectives.recorded import Recorded


def recorded(bench: Bench, name: str, n: int) -> Figures:
    """The same step of the same kernels, launched one by one and replayed from a CUDA graph."""
    of, n = bench.made(name, BF16), bench.many(n)
    objective, start = of.objective(), of.start(n)
    with ts.models.frozen(of.model), peak(bench.device) as memory:
        as_it_is = seconds_of(lambda: objective(start), bench.device)
        replayed = Recorded(objective, start)
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
    on_device = by_kernel(events)
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


def by_kernel(events: Any) -> dict[str, tuple[int, float]]:
    """Calls and microseconds by the beginning of a name, which kernels of one kind share."""
    found: dict[str, tuple[int, float]] = {}
    for event in events:
        if (us := _self(event)) > 0:
            calls, before = found.get(event.key[:60], (0, 0.0))
            found[event.key[:60]] = (calls + event.count, before + us)
    return found


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
        for what, kind in (("apart", Segment), ("one row", Packed)):
            segment = segment_of(of.model, of.shape, asked, kind)
            objective = Objective(segment, Displacement(), segment.mask)
            taken = seconds_of(lambda o=objective: o(of.start(n)), bench.device, times=3, warm=1)
            found[what] = round(taken, 4)
    return found | {"note": "s a step"}


def compiled(bench: Bench, mode: str) -> Figures:
    """The segment's blocks as they are hooked, compiled. Hooks that come later are not in it."""
    of, n = bench.made("1.8b", BF16), bench.many(100)
    objective, start = of.objective(), of.start(n)
    kept, found = of.segment.calls, {}
    torch._dynamo.config.recompile_limit = 64  # one for each block
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
