"""Sessions of `watch` without a model: requests are heard as a model would say them."""

import dataclasses
import warnings
from typing import Any

import torch
from tiny_monitor import monitor_without_a_model, synthetic

from tl_steer.monitoring.audit import AuditLog
from tl_steer.monitoring.session import Watch
from tl_steer.monitoring.traffic import Traffic

END = 1


class Rows(AuditLog):
    """In the place of an audit log: rows in memory."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.alerts: list[Any] = []

    def hash(self, ids: Any) -> str:
        return ""

    def bank(self, digest: str, numbers: Any) -> None:
        pass

    def request(self, row: Any) -> None:
        self.requests.append(row)

    def alert(self, row: Any) -> None:
        self.alerts.append(row)


def monitor_on(traffic: Traffic, seed: int, dtype: str = "float32", **how: Any) -> Any:
    """A monitor fitted on these requests, whose end-of-text token is `END`."""
    how |= {"dtype": dtype}
    made = monitor_without_a_model(len(traffic), seed, traffic=traffic, **how)
    return dataclasses.replace(made, identity=dataclasses.replace(made.identity, end=END))


def say(session: Watch, monitor: Any, traffic: Traffic, batch: int) -> None:
    """Every request, so many at a time; a row that has ended goes on being filled."""
    around = monitor.identity
    prompt = torch.tensor([*around.prefix, 5, 5, *around.suffix])
    at, mask = traffic.activations["here"], traffic.mask
    for rows in torch.arange(len(traffic)).split(batch):
        n = len(rows)
        ids = prompt.repeat(n, 1)
        session.begin(ids, torch.ones_like(ids, dtype=torch.bool))
        for step in range(at.shape[1]):
            if step:
                session.token(torch.where(mask[rows, step], 5, END))
            session.activation(0, at[rows, step])


def watched(
    monitor: Any, traffic: Traffic, *, alpha: float, chunk: int, batch: int, drift: Any = None
) -> tuple[Watch, Rows]:
    rows = Rows()
    session = Watch(monitor, alpha=alpha, audit=rows, drift=drift, chunk=chunk)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        say(session, monitor, traffic, batch)
        session.flush()
    return session, rows


def few_kinds(seed: int, kinds: int = 6, clean: int = 200, fresh: int = 24) -> tuple[Traffic, ...]:
    """Clean and fresh requests, all drawn from a few."""
    draw = torch.Generator().manual_seed(seed)
    pool = synthetic(kinds, 900 + seed)
    return tuple(pool[torch.randint(kinds, (n,), generator=draw)] for n in (clean, fresh))
