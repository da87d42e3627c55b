"""Programs that write until somebody kills them. Each says `ready.send` when it begins, and what it
was told is safe goes into a file, a line each."""

import itertools
import os
from pathlib import Path
from typing import Any

import tiny_run
import tiny_sweep
import torch
from torch import nn

import tl_steer as ts
from tl_steer.monitoring.audit import AuditLog, RequestRow
from tl_steer.monitoring.detectors import MatchedFilter

METHODS = {
    "melbo": ts.methods.Melbo(steps=20, lr=0.02),
    "power": ts.methods.Power(steps=20),
    "dct": ts.methods.Dct(steps=12),
}


def elicit(ready: Any, path: Path, method: str) -> None:
    torch.set_num_threads(1)
    ready.send(1)
    went_on = path if path.exists() else None
    tiny_run.run(method=METHODS[method], checkpoint=path, every=0, resume=went_on)


def sweep(ready: Any, path: Path) -> None:
    torch.set_num_threads(1)
    ready.send(1)
    tiny_sweep.run(path)


def save(ready: Any, path: Path) -> None:
    """One bank over the other."""
    torch.set_num_threads(1)
    both = [bank_of(n) for n in (2, 3)]
    ready.send(1)
    for bank in itertools.cycle(both):
        bank.save(path)


def bank_of(n: int) -> ts.Bank:
    return tiny_sweep.bank(tiny_sweep.Reading(), n)


def log(ready: Any, path: Path, told: Path) -> None:
    """Rows, as fast as the disk takes them; the log is opened anew every few."""
    said = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ready.send(1)
    for i in itertools.count():
        with AuditLog(path) as own:
            for j in range(5):
                name = f"{os.getpid()}-{i}-{j}"
                own.request(RequestRow(name, float(i), "m", "b", "p", 3, 0, 1.5, 0.2, False))
                os.write(said, f"{name}\n".encode())


class Heard(tiny_sweep.Reading):
    """With an embedding that a monitor can listen to."""

    def __init__(self) -> None:
        super().__init__()
        table = self.embed.data
        del self.embed
        self.embed = nn.Embedding.from_pretrained(table)

    def forward(self, ids: Any, attention_mask: Any = None, **how: Any) -> Any:
        residual = self.embed(ids)
        for block in self.blocks[: how.get("stop_at_layer")]:
            residual = block(residual)
        return self.unembed(residual) if how.get("return_type") == "logits" else residual


def watch(ready: Any, path: Path, told: Path) -> None:
    """Requests of a watched model; what a flush returned from is safe."""
    torch.set_num_threads(1)
    model = Heard()
    monitor = ts.Monitor.fit(
        model,
        tiny_sweep.bank(model),
        tiny_sweep.prompts(150),
        sites=[tiny_sweep.TARGET],
        horizon=0,
        ends=1,
        effect_prompts=8,
        score=MatchedFilter(),
    )
    said = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ready.send(1)
    for i in itertools.count():
        with ts.watch(model, monitor, alpha=0.05, log=path, drift=None) as session:
            for j in range(5):
                ids = torch.tensor([[1, 2, 3, (i + j) % 31]])
                model(ids, attention_mask=torch.ones_like(ids))
                session.flush()
                os.write(said, f"{session.requests}\n".encode())
