"""Monitors at work: false alarms with and without ties, what is broken, threads, files, memory.

python tests/reliability/torture_live.py
"""

import functools
import itertools
import math
import os
import resource
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torch
from conftest import make
from evidence import Row, write
from live_requests import few_kinds, monitor_on, watched
from monitor_files import WAYS, mutated
from tiny_monitor import ALPHA, POS, answer, monitor_of, prompts, synthetic

import tl_steer as ts
from tl_steer.monitoring.audit import read_log
from tl_steer.monitoring.statistics.conformal import Guarantee
from tl_steer.monitoring.statistics.drift import Drift

ALPHAS, CHUNKS, BATCHES = (0.012, 0.05, 0.1, 0.2), (1, 2, 8, 32), (1, 3, 40)
BROKEN = (math.nan, math.inf, -math.inf, 1e20, 1e30)
PROMISE = (
    "Clean requests raise alarms at most as often as asked for, also where the same few come again "
    "and again; equal requests get equal verdicts, however they are batched; an activation that "
    "is NaN, infinite or overflows raises an alert and has a row; a changed monitor file is "
    "refused or works to the end; threads lose nothing; memory stays as it is."
)


def ties(seeds: Iterable[int], chunks: Sequence[int] = CHUNKS) -> list[Row]:
    """Requests drawn from six, and whether they raise more alarms than asked for."""
    alarms: Counter[tuple[float, int]] = Counter()
    asked = 0
    for seed in seeds:
        clean, fresh = few_kinds(seed)
        monitor = monitor_on(clean, seed)
        asked += len(fresh)
        for chunk in chunks:
            _, rows = watched(monitor, fresh, alpha=max(ALPHAS), chunk=chunk, batch=len(fresh))
            for alpha in ALPHAS:
                alarms[alpha, chunk] += sum(row.p_value <= alpha for row in rows.requests)
    return [
        Row(
            f"false alarms with ties, alpha {alpha}, chunk {chunk}",
            asked,
            max(0, alarms[alpha, chunk] - math.ceil(alpha * asked)),
            f"rate {alarms[alpha, chunk] / asked:.3f}; failures are alarms above alpha",
        )
        for alpha, chunk in itertools.product(ALPHAS, chunks)
    ]


def no_ties(seeds: Sequence[int], fresh: int = 200) -> list[Row]:
    """Every seed's alarms are within what its calibration set allows in 99.9% of cases."""
    found = []
    for alpha in ALPHAS[1:3]:
        counts, outside = [], 0
        for seed in seeds:
            monitor = monitor_on(synthetic(200, seed), seed)
            _, rows = watched(
                monitor, synthetic(fresh, 5000 + seed), alpha=alpha, chunk=8, batch=40
            )
            counts.append(sum(row.alerted for row in rows.requests))
            promise = Guarantee(alpha, min(monitor.calibration.sizes))
            outside += counts[-1] > promise.among(fresh, 0.999)
        rate = sum(counts) / (len(seeds) * fresh)
        found.append(
            Row(f"seeds without ties, alpha {alpha}", len(seeds), outside, f"rate {rate:.3f}")
        )
    return found


def drift(streams: int) -> list[Row]:
    """Streams that have not moved."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for what in ("without ties", "with ties, rounded otherwise"):
        alarms = 0
        for seed in range(streams):
            scores = torch.randn(290, generator=draw, dtype=torch.float64)
            if what != "without ties":
                rounding = 1e-6 * torch.rand(290, generator=draw, dtype=torch.float64)
                # Live ones are always a little more than those of the calibration.
                scores = (scores * 2).round() + torch.where(torch.arange(290) < 90, 0.0, rounding)
            watch = Drift(scores[:90].tolist(), alpha=0.05, seed=seed)
            alarms += any(watch(score) for score in scores[90:].tolist())
        above = max(0, alarms - math.ceil(0.05 * streams + 3 * math.sqrt(0.05 * streams)))
        found.append(Row(f"drift alarms, {what}, alpha .05", streams, above, f"{alarms} alarms"))
    return found


def alike(seeds: Iterable[int], ways: Sequence[dict[str, Any]] = WAYS) -> Row:
    """Verdicts and p-values, live by chunk and batch, against `score`; requests are repeated."""
    cases = failures = 0
    apart = 0.0
    for seed, how in itertools.product(seeds, ways):
        clean, fresh = few_kinds(seed, kinds=40, fresh=40)
        monitor = monitor_on(clean, seed, **how)
        offline = monitor.score(fresh.activations, mask=fresh.mask)
        for chunk, batch in itertools.product(CHUNKS, BATCHES):
            _, rows = watched(monitor, fresh, alpha=0.05, chunk=chunk, batch=batch)
            for row, p, value in zip(
                rows.requests, offline.p_values.tolist(), offline.statistic.tolist(), strict=True
            ):
                cases += 1
                failures += row.p_value != p or row.alerted != (p <= 0.05)
                apart = max(apart, abs(row.statistic - value))
    return Row("live and offline verdicts, chunk 1-32, batch 1-40", cases, failures,
               f"statistics differ by {apart:.1e} nats at most")  # fmt: skip


def broken(ways: Sequence[dict[str, Any]] = WAYS) -> Row:
    """Every value at every place of one request in three: an alert, a row, and nothing else."""
    cases = failures = 0
    for how, value, place, chunk in itertools.product(ways, BROKEN, range(POS), (1, 8)):
        monitor = _monitor(WAYS.index(how))
        traffic = synthetic(3, 9, at=POS - 1)
        traffic.activations["here"][1, place, 4] = value
        session, rows = watched(monitor, traffic, alpha=0.05, chunk=chunk, batch=3, drift=0.01)
        told = [alert for alert in session.alerts if alert.kind == "could not be scored"]
        cases += 1
        right = len(rows.requests) == 3 and rows.requests[1].alerted and session.unscorable == 1
        right = right and [[one.position for one in alert.tokens] for alert in told] == [[place]]
        failures += not right
    return Row("a broken activation: NaN, infinite, 1e20, 1e30 at every place", cases, failures)


@functools.cache
def _monitor(way: int) -> Any:
    return monitor_on(synthetic(200, 1), 1, **WAYS[way])


def threads(requests: int, n: int = 3) -> Row:
    """So many threads at a time get the tokens, and have the statistics, that each has alone."""
    model = make("bridge-llama")
    monitor, asked = monitor_of(model), [model.to_tokens(text) for text in prompts(requests, 31)]
    alone = [answer(model, ids) for ids in asked]
    said: list[list[Any]] = [[] for _ in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        one, many = Path(folder, "one"), Path(folder, "many")
        with ts.watch(model, monitor, alpha=ALPHA, log=one):
            for ids in asked:
                answer(model, ids)
        with ts.watch(model, monitor, alpha=ALPHA, log=many):
            at_work = [
                threading.Thread(target=lambda own=own: own.extend(answer(model, i) for i in asked))
                for own in said
            ]
            for thread in at_work:
                thread.start()
            for thread in at_work:
                thread.join()
        expected, found = (
            sorted(r["statistic"] for r in read_log(p, "requests")) for p in (one, many)
        )
    same = [sum(map(torch.equal, own, alone)) for own in said]
    scored = sum(abs(a - b) < 1e-4 for a, b in zip(found, sorted(expected * n), strict=False))
    cases = n * requests
    return Row(
        f"requests of {n} threads under one watch", cases, max(cases - sum(same), cases - scored)
    )


def memory(requests: int, batch: int = 50) -> Row:
    """Resident memory after a tenth, a half and all of so many watched requests."""
    model, seen = make("bridge-llama"), {}
    monitor = monitor_of(model)
    ids = model.to_tokens("t5 t9 t30 t7").repeat(batch, 1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ts.watch(model, monitor, alpha=ALPHA, log=Path(folder, "a")) as session:
            for done in range(0, requests, batch):
                draw = torch.randint(
                    3, 98, (batch, 3), generator=torch.Generator().manual_seed(done)
                )
                ids[:, 2:] = draw
                answer(model, ids)
                if done + batch in (requests // 10, requests // 2, requests):
                    seen[done + batch] = resident()
        rows = sum(1 for _ in read_log(Path(folder, "a"), "requests"))
    grown = seen[requests] - seen[requests // 10]
    failed = int(rows != requests or session.requests != requests) + int(grown > 20)
    note = ", ".join(f"{mb:.0f} MB at {done}" for done, mb in seen.items())
    return Row("watched requests", requests, failed, note)


def resident() -> float:
    """MB, now."""
    status = Path("/proc/self/statm")
    if not status.is_file():  # the most there ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20


def files(seed: int, n: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        ended, failed = mutated(seed, n, Path(folder))
    for line in failed:
        print(line)
    return Row("monitor files, changed and signed anew", n, len(failed), _said(ended))


def _said(ended: Counter[str]) -> str:
    return ", ".join(f"{count} {how}" for how, count in sorted(ended.items()))


def main() -> None:
    torch.set_num_threads(1)
    rows = [
        *ties(range(20)),
        *no_ties(range(20)),
        *drift(200),
        alike(range(4)),
        broken(),
        threads(20),
        files(1, 1000),
        memory(10_000),
    ]
    for row in rows:
        print(row)
    write("Live monitoring", PROMISE, rows, command="python tests/reliability/torture_live.py")


if __name__ == "__main__":
    main()
