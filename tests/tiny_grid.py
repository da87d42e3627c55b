"""Grids on tiny models that have a name, for tests that kill the processes they run in."""

import os
import signal
from functools import partial
from pathlib import Path

import doomed
import tiny_run
import tiny_sweep
import torch
from tiny_run import dying_at

from tl_steer.elicitation import GridPlan, grid

# As an installed package would have it: every process that finds it can load these by name.
NAMED = "[tl_steer.models]\ntiny = tiny_grid:LOADERS\n"
LOADERS = {
    "tiny-curved": lambda dtype: tiny_run.Curved().to(dtype),
    "tiny-reading": lambda dtype: tiny_sweep.Reading().to(dtype),
    "tiny-heard": lambda dtype: doomed.Heard().to(dtype),
}
PLAN = {
    "model": "tiny-curved",
    "sources": [0, 1],
    "targets": [1, 2],
    "radii": [2.0],
    "n": 3,
    "random": 2,
    "prompts": {"first": ["1 2 3 4", "5 6 7 8"], "too short": ["1"]},
}


def installed(folder: Path) -> Path:
    """A folder that names the models, once it is among Python's paths."""
    own = folder / "tiny_grid-1.dist-info"
    own.mkdir(parents=True)
    (own / "METADATA").write_text("Name: tiny-grid\nVersion: 1\n", encoding="utf-8")
    (own / "entry_points.txt").write_text(NAMED, encoding="utf-8")
    return folder


def mortal(marks: str, deaths: int, model, bank):
    """The process dies in the middle of the cell from layer 1, so many times."""
    if bank.source.layer == 1 and len(os.listdir(marks)) < deaths:
        Path(marks, str(len(os.listdir(marks)))).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return bank, {"layer": bank.source.layer}


def search(path, marks, *, deaths=0, engine=None, **changes):
    """Into a folder, or on with it."""
    torch.set_num_threads(1)
    after = partial(mortal, str(marks), deaths)
    plan = GridPlan.of(PLAN | changes)
    return grid(plan, resume=path, engine=engine, after=after, progress=False)


def keep_going(path, marks, die_at=None, engine=None):
    """Start, or go on from what the process before has left; SIGKILL oneself at rename `die_at`."""
    dying_at(die_at)
    search(path, marks, engine=engine)
