"""What watching costs: time in the monitor against time of the whole generation."""

import dataclasses
import math
import time
from typing import Any

import numpy as np
import torch
from case import hook
from page import table
from torch import Tensor

import tl_steer as ts
from tl_steer.models import fingerprint
from tl_steer.models.taps import host_of, listening
from tl_steer.monitoring.detectors import detector
from tl_steer.monitoring.evidence import Effects
from tl_steer.monitoring.identity import identity_of
from tl_steer.monitoring.monitor import Monitor, split_of
from tl_steer.monitoring.session import Watch
from tl_steer.monitoring.traffic import Traffic


class Timed(Watch):
    """Adds up the time in its calls."""

    spent = 0.0

    def activation(self, site: int, residual: Tensor) -> None:
        begun = time.perf_counter()
        super().activation(site, residual)
        self.spent += time.perf_counter() - begun


# Vectors in the bank, and tokens that are scored together.
CASES = ((512, 1), (512, 8), (512, 32), (100_000, 1), (100_000, 8))
TOKENS = 33  # a prompt's end and a horizon of 32
CLEAN = 300  # requests; neighbours are looked for among the tokens of 40% of them


def overhead(rounds: int = 5) -> str:
    """Time inside the listener against time of the whole generation, per token, on SmolLM2. Cases
    take turns."""
    model = ts.load_model()
    ids = ts.tokenize(model, [ts.chat("Tell me about the history of Rome.")]).ids
    monitors = {n: synthetic_monitor(model, n) for n in dict(CASES)}
    spent: dict[tuple[int, int], list[tuple[float, float]]] = {case: [] for case in CASES}
    for _ in range(rounds):
        for case in CASES:
            spent[case].append(timed(model, ids, monitors[case[0]], case[1]))
    rows = []
    for (n, chunk), found in spent.items():
        inside, whole = np.median(found, axis=0)
        share = np.median([a / b for a, b in found])
        rows.append([f"{n:,}", chunk, f"{inside:.3f}", f"{whole:.1f}", f"{share:.2%}"])
    threads = torch.get_num_threads()
    return (
        f"`python tests/benchmarks/monitor.py --overhead`: one request of SmolLM2-135M, fp32, "
        f"{threads} CPU thread{'s' * (threads > 1)}, one layer, {TOKENS} tokens, of which `chunk` "
        f"are scored at a time; a monitor fitted on {CLEAN} requests. ms per token, medians of "
        f"{rounds} runs that took turns.\n\n"
        + table(["vectors", "chunk", "ms in the monitor", "ms in all", "share"], rows)
    )


def timed(model: Any, ids: Tensor, monitor: Monitor, chunk: int) -> tuple[float, float]:
    """Milliseconds per token, in the monitor and in all."""
    session = Timed(monitor, alpha=0.1, chunk=chunk)
    session._limits = [math.inf] * len(session._limits)  # alerts are no part of what watching costs
    with listening(host_of(model, monitor.sites), session):
        begun = time.perf_counter()
        model.generate(
            ids, max_new_tokens=TOKENS, do_sample=False, verbose=False, stop_at_eos=False
        )
        whole = time.perf_counter() - begun
    return 1e3 * session.spent / TOKENS, 1e3 * whole / TOKENS


def synthetic_monitor(model: Any, n: int) -> Monitor:
    """A monitor of any size; what its vectors are does not matter to its speed."""
    generator = torch.Generator().manual_seed(0)
    width = int(model.cfg.d_model)
    site = ts.models.resolve(model, hook(20))
    mark = fingerprint(model)
    rows = torch.randn(n, width, generator=generator)
    bank = ts.Bank(
        rows, rows, torch.ones(n), site, site, 1.0, 0.1, ts.banks.Provenance("none", mark)
    )
    clean = Traffic(
        activations={site.name: torch.randn(CLEAN, TOKENS, width, generator=generator)},
        mask=torch.ones(CLEAN, TOKENS, dtype=torch.bool),
        ids=torch.zeros(CLEAN, TOKENS, dtype=torch.long),
        prompts=(torch.arange(3),) * CLEAN,
        texts=("",) * CLEAN,
        answers=("",) * CLEAN,
    )
    how: Any = {"score": detector.Search(), "namer": None} if n > 10_000 else {}
    found = {site.name: Effects((rows, rows), (rows[:, None], rows[:, None]))}
    identity = dataclasses.replace(
        identity_of(model, ts.tokenize(model, [ts.chat("x")]), [site.name]), prefix=(), suffix=()
    )
    return Monitor.of(bank, clean, found, identity, split=split_of(CLEAN), sites=[site], **how)
