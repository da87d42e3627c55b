"""A long run for tests that kill the process it runs in."""

import itertools
import os
import signal

import torch
from linear import LinearBlock, LinearHost

import tl_steer as ts

PROMPTS = ["1 2 3 4", "5 6 7 8"]


class Bent(LinearBlock):
    """Something to climb: the residual stream goes through tanh."""

    def forward(self, residual):
        return self.hook_resid_post(3 * torch.tanh(self.hook_resid_pre(residual) @ self.matrix.T))


class Curved(LinearHost):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        matrices = [torch.randn(8, 8, generator=generator) for _ in range(3)]
        super().__init__(matrices)
        self.blocks = torch.nn.ModuleList(Bent(m) for m in matrices)


def run(**knobs):
    given = {"method": ts.methods.Melbo(steps=20, lr=0.02), "progress": False} | knobs
    return ts.elicit(
        Curved(),
        PROMPTS,
        source="blocks.0.hook_resid_post",
        target="blocks.2.hook_resid_post",
        n=5,
        radius=2.0,
        **given,
    )


def dying_at(die_at):
    """From now on this process kills itself in the place of its rename of that number."""
    rename, renames = os.replace, itertools.count(1)

    def replace(draft, final):
        if next(renames) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(draft, final)

    os.replace = replace


def keep_going(path, die_at=None):
    """Start, or go on from what the process before has left; SIGKILL oneself at rename `die_at`."""
    torch.set_num_threads(1)
    dying_at(die_at)
    run(checkpoint=path, every=0, resume=path if path.exists() else None)
