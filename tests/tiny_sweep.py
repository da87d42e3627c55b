"""A sweep on a linear model, for closed forms and for tests that kill the process it runs in."""

import os
import signal

import torch
from linear import LinearHost
from torch import nn

import tl_steer as ts
from tl_steer.sweeps.folder import Folder

SOURCE, TARGET = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
D = 6


class Reading(LinearHost):
    """Linear all the way: logits are one more matrix."""

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        super().__init__([torch.randn(D, D, generator=generator) for _ in range(3)])
        self.ln_final = nn.Identity()
        self.unembed = nn.Linear(D, 31, bias=False)
        self.unembed.weight.data = torch.randn(31, D, generator=generator)

    def forward(self, ids, attention_mask=None, stop_at_layer=None, return_type=None):
        residual = super().forward(ids, attention_mask, stop_at_layer)
        return self.unembed(residual) if return_type == "logits" else residual


def prompts(n=13):
    return [" ".join(str((i * j + 1) % 31) for j in range(1, 5 + i % 3)) for i in range(1, n + 1)]


def bank(model, n=3):
    return ts.elicit(
        model, ["1 2 3 4"], source=SOURCE, target=TARGET, n=n, radius=2.0, progress=False
    )


def run(path=None, *, n=13, **knobs):
    model = Reading()
    given = {"n_random": 4, "part": 3, "progress": False} | knobs
    return ts.sweep(model, bank(model), prompts(n), resume=path, **given)


def keep_going(path, kill_at=None):
    """Sweep into a folder; with `kill_at`, die by SIGKILL between that part's file and its count,
    or in the middle of writing the file."""
    torch.set_num_threads(1)
    keep = Folder.keep
    parts = []

    def counted(self, state):
        parts.append(state.parts)
        if state.parts == kill_at:
            (self.path / ".part-000009.parquet.1.part").write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        keep(self, state)

    Folder.keep = counted
    run(path)
