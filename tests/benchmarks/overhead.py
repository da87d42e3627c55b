"""What watching costs: time in the monitor against time of the whole generation."""

import dataclasses
import math
import re
import time
from pydoc_data.topics import topics
from typing import Any
from unittest import mock

import numpy as np
import torch
from case import hook
from page import table
from torch import Tensor

import tl_steer as ts
from tl_steer.models import fingerprint, taps
from tl_steer.models.state import listen
from tl_steer.models.taps import glance, host_of, listening
from tl_steer.monitoring.detectors import detector
from tl_steer.monitoring.evidence import Effects
from tl_steer.monitoring.identity import identity_of
from tl_steer.monitoring.monitor import Monitor, split_of
from tl_steer.monitoring.reader import Phase, sound
from tl_steer.monitoring.session import Watch
from tl_steer.monitoring.traffic import Traffic


class Clock:
    """Adds up the processor time in all hooks that it puts on, in the place of `taps.listen`."""

    def __init__(self) -> None:
        self.spent = 0.0

    def listen(self, scope: Any, module: Any, hook: Any, *, before: bool) -> None:
        def timed(*given: Any) -> Any:
            begun = time.process_time()
            try:
                return hook(*given)
            finally:
                self.spent += time.process_time() - begun

        listen(scope, module, timed, before=before)


class Whole:
    """In the place of `Parts`: every vector's scores, and the largest of them, as offline."""

    def __init__(self, phase: Phase) -> None:
        self.phase, self.count = phase.joined(), len(phase.known) + (phase.unknown is not None)

    def __call__(self, activations: Tensor) -> list[list[float]]:
        found = self.phase.parts(*self.phase.read(activations))
        fine = sound(activations, found.values())
        return [*(values.tolist() for values in found.values()), fine.tolist()]


# Vectors in the bank, and tokens that are scored together.
CASES = ((512, 1), (512, 8), (512, 32), (100_000, 1), (100_000, 8))
TOKENS = 33  # a prompt's end and a horizon of 32
CLEAN = 300  # requests; neighbours are looked for among the tokens of 40% of them
CONTEXT = 8  # tokens in front of those


def overhead(rounds: int = 3) -> str:
    """Processor time in all hooks against that of the whole generation, per token, on
    SmolLM2. Cases take turns."""
    model = ts.load_model()
    ids = ts.tokenize(model, [ts.chat("Tell me about the history of Rome.")]).ids
    clean = clean_activations(model)
    monitors = {n: synthetic_monitor(model, n, clean) for n in dict(CASES)}
    ways = [(case, whole) for case in CASES for whole in (False, True)]
    spent: dict[Any, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for case, whole in ways:
            spent[case, whole].append(timed(model, ids, monitors[case[0]], case[1], whole))
    rows = []
    for n, chunk in CASES:
        inside, all_in_all = np.median(spent[(n, chunk), False], axis=0)
        share, before = (
            np.median([a / b for a, b in spent[(n, chunk), whole]]) for whole in (False, True)
        )
        rows.append(
            [f"{n:,}", chunk, f"{inside:.3f}", f"{all_in_all:.1f}", f"{share:.2%}", f"{before:.2%}"]
        )
    threads = torch.get_num_threads()
    return (
        f"`python tests/benchmarks/monitor.py --overhead`: one request of SmolLM2-135M, fp32, "
        f"{threads} CPU thread{'s' * (threads > 1)}, one layer, {TOKENS} tokens, of which `chunk` "
        f"are scored at a time; a monitor fitted on {CLEAN} passages of Python's documentation. ms "
        f"of processor time per token, medians of {rounds} runs that took turns.\n\n"
        + table(
            [
                "vectors",
                "chunk",
                "ms in the monitor",
                "ms in all",
                "share",
                "share if every score is made",
            ],
            rows,
        )
    )


def timed(
    model: Any, ids: Tensor, monitor: Monitor, chunk: int, whole: bool
) -> tuple[float, float]:
    """Milliseconds per token, in the monitor and in all."""
    session, clock = Watch(monitor, alpha=0.1, chunk=chunk), Clock()
    if whole:
        phases = monitor.reader.without_namer().phases
        session._running._phases = [[Whole(each) for each in both] for both in phases]
    session._limits = [math.inf] * len(session._limits)  # alerts are no part of what watching costs
    with (
        mock.patch.object(taps, "listen", clock.listen),
        listening(host_of(model, monitor.sites), session),
    ):
        begun = time.process_time()
        model.generate(
            ids, max_new_tokens=TOKENS, do_sample=False, verbose=False, stop_at_eos=False
        )
        passed = time.process_time() - begun
    return 1e3 * clock.spent / TOKENS, 1e3 * passed / TOKENS


def clean_activations(model: Any) -> Tensor:
    """Of passages of text, [passage pos d]: how fast neighbours are found depends on how clean
    tokens lie."""
    text = re.sub(r"\s+", " ", " ".join(topics.values()))
    ids = torch.tensor(model.tokenizer(text)["input_ids"])
    starts = torch.linspace(0, len(ids) - 2 * TOKENS, CLEAN).long()
    order = torch.randperm(CLEAN, generator=torch.Generator().manual_seed(0))
    rows = ids[starts[order, None] + torch.arange(TOKENS + CONTEXT)]
    host = host_of(model, [ts.models.resolve(model, hook(20))])
    return torch.cat([glance(host, some)[0][:, CONTEXT:].float() for some in rows.split(60)])


def synthetic_monitor(model: Any, n: int, clean: Tensor) -> Monitor:
    """A monitor of any size; what its vectors are does not matter to its speed."""
    generator = torch.Generator().manual_seed(0)
    width = int(model.cfg.d_model)
    site = ts.models.resolve(model, hook(20))
    mark = fingerprint(model)
    rows = torch.randn(n, width, generator=generator)
    bank = ts.Bank(
        rows, rows, torch.ones(n), site, site, 1.0, 0.1, ts.banks.Provenance("none", mark)
    )
    traffic = Traffic(
        activations={site.name: clean},
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
    return Monitor.of(bank, traffic, found, identity, split=split_of(CLEAN), sites=[site], **how)
