"""What watching costs: time in the monitor against time of the whole generation."""

import dataclasses
import gc
import time
from typing import Any

import numpy as np
import torch
from case import hook
from page import table
from torch import Tensor

import tl_steer as ts
from tl_steer import detector
from tl_steer.evidence import Effects
from tl_steer.identify import identity_of
from tl_steer.monitor import Monitor, split_of
from tl_steer.session import Watch
from tl_steer.taps import host_of, listening
from tl_steer.traffic import Traffic


class Timed(Watch):
    """Writes down the time in every call; the first of a batch scores the prompt."""

    spent: list[float]

    def activation(self, site: int, residual: Tensor) -> None:
        begun = time.perf_counter()
        super().activation(site, residual)
        self.spent.append(time.perf_counter() - begun)


def overhead() -> str:
    """Time inside the listener against time of the whole generation, per token, on SmolLM2."""
    model = ts.load_model()
    ids = ts.tokenize(model, [ts.chat("Tell me about the history of Rome.")]).ids
    rows = []
    for n in (512, 100_000):
        monitor = synthetic_monitor(model, n)
        spent: list[float] = []
        totals = []
        for _ in range(4):
            session = Timed(monitor, alpha=0.1)
            session.spent = spent
            session._limit = float("inf")
            with listening(host_of(model, monitor.sites), session):
                begun = time.perf_counter()
                model.generate(
                    ids, max_new_tokens=17, do_sample=False, verbose=False, stop_at_eos=False
                )
                totals.append((time.perf_counter() - begun) / 17)
        hook_ms, whole = 1e3 * float(np.median(spent)), 1e3 * min(totals)
        rows.append([f"{n:,}", f"{hook_ms:.3f}", f"{whole:.1f}", f"{hook_ms / whole:.2%}"])
        del monitor
        gc.collect()
    threads = torch.get_num_threads()
    return (
        f"`python tests/benchmarks/monitor.py --overhead`: one request of SmolLM2-135M, fp32, "
        f"{threads} CPU thread{'s' * (threads > 1)}, one layer; medians per token.\n\n"
        + table(["vectors", "ms in the monitor", "ms in all", "share"], rows)
    )


def synthetic_monitor(model: Any, n: int) -> Monitor:
    """A monitor of any size; what its vectors are does not matter to its speed."""
    generator = torch.Generator().manual_seed(0)
    width = int(model.cfg.d_model)
    site = ts.resolve(model, hook(20))
    mark = ts.model.fingerprint(model)
    rows = torch.randn(n, width, generator=generator)
    bank = ts.Bank(rows, rows, torch.ones(n), site, site, 1.0, 0.1, ts.Provenance("none", mark))
    clean = Traffic(
        activations={site.name: torch.randn(100, 5, width, generator=generator)},
        mask=torch.ones(100, 5, dtype=torch.bool),
        ids=torch.zeros(100, 5, dtype=torch.long),
        prompts=(torch.arange(3),) * 100,
        texts=("",) * 100,
        answers=("",) * 100,
    )
    how: Any = {"score": detector.Search(), "namer": None} if n > 10_000 else {}
    found = {site.name: Effects((rows, rows), (rows[:, None], rows[:, None]))}
    identity = dataclasses.replace(
        identity_of(model, ts.tokenize(model, [ts.chat("x")]), [site.name]), prefix=(), suffix=()
    )
    made = Monitor.of(bank, clean, found, identity, split=split_of(100), sites=[site], **how)
    return dataclasses.replace(made, horizon=32)
