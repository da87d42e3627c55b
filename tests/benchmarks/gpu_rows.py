"""Searches of `gpu.py`, each a function of what all rows share."""

from statistics import median
from typing import Any

import torch
from gpu_bench import BF16, FP32, Bench, Figures
from gpu_models import TOKENS, Made, clock, peak, prompts, seconds_of, segment_of

import tl_steer as ts
from tl_steer.methods import Dct, Melbo, Power, Replayed
from tl_steer.radii.rules import Calibrated

SHORT = {BF16: "bf16", FP32: "fp32"}


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
        climb = Replayed(method) if graph else method
        found = climbed(bench, of, climb, objective, n)
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


def in_tf32(bench: Bench) -> Figures:
    """Whether a segment can be made where fp32 products are rounded to TF32: its blocks, run again
    on two rows, have to give what the model gave."""
    of = bench.made("7b", FP32)
    torch.set_float32_matmul_precision("high")
    try:
        segment_of(of.model, of.shape, prompts(of.shape, 1))
    finally:
        torch.set_float32_matmul_precision("highest")
    return {"note": "it can"}
