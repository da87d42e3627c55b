"""kill -9 at random moments: nothing that was told to be safe is lost, torn or doubled.

python tests/reliability/torture_kills.py
"""

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TESTS = str(Path(__file__).parents[1])
sys.path.insert(0, TESTS)

import doomed
import tiny_run
import tiny_sweep
import torch
from evidence import Row, write

import tl_steer as ts
from tl_steer.errors import SteerError
from tl_steer.monitoring.audit import read_log, verify_log

FULL = {"elicit": 15, "sweep": 45, "save": 40, "log": 40, "watch": 30}
PROMISE = (
    "A process is killed at a random moment, up to three times in a row. Then: a resumed run ends "
    "bit-equal to an unbroken one and leaves nothing beside its files; a sweep has every row once; "
    "a bank is the old or the new one, and the next save clears the draft; an audit log has every "
    "row that was acknowledged, and its chain verifies."
)
Doomed = Callable[..., None]


class Killer:
    """Starts programs in processes of their own and kills them.

    Args:
        processes: a multiprocessing context.
        seed: of the moments.
    """

    def __init__(self, processes: Any, seed: int) -> None:
        self.processes, self.draw = processes, random.Random(seed)
        self.kills = 0

    def kill(self, program: Doomed, *given: Any, within: float) -> bool:
        """Whether it was killed; it may have come to its end before."""
        process = self._start(program, *given)
        process.join(self.draw.uniform(0, within))
        process.kill()
        process.join()
        if process.exitcode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{program.__name__} ended with {process.exitcode}")
        self.kills += process.exitcode != 0
        return bool(process.exitcode != 0)

    def finish(self, program: Doomed, *given: Any) -> None:
        process = self._start(program, *given)
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"{program.__name__} does not go on: {process.exitcode}")

    def _start(self, program: Doomed, *given: Any) -> Any:
        ours, theirs = self.processes.Pipe()
        process = self.processes.Process(target=program, args=(theirs, *given), daemon=True)
        process.start()
        theirs.close()
        ours.recv()  # from here on the time counts, not from when Python began
        return process


def resumed(killer: Killer, program: Doomed, *given: Any, whole: float) -> None:
    """Killed one to three times, and then left alone."""
    for _ in range(killer.draw.randint(1, 3)):
        killer.kill(program, *given, within=whole)
    killer.finish(program, *given)


def elicited(killer: Killer, folder: Path, method: str) -> Iterator[str]:
    path, first = folder / "b.safetensors", folder / "first.safetensors"
    began = time.monotonic()
    truth = tiny_run.run(method=doomed.METHODS[method], checkpoint=first, every=0)
    whole = time.monotonic() - began
    while True:
        path.unlink(missing_ok=True)
        resumed(killer, doomed.elicit, path, method, whole=whole)
        found = ts.load_bank(path)
        equal = all(
            torch.equal(getattr(truth, name), getattr(found, name))
            for name in ("vectors", "responses", "objective")
        )
        left = sorted(p.name for p in folder.iterdir())
        yield "" if equal and left == ["b.safetensors", "first.safetensors"] else f"{equal} {left}"


def swept(killer: Killer, folder: Path) -> Iterator[str]:
    began = time.monotonic()
    truth = tiny_sweep.run(folder / "truth")
    whole = time.monotonic() - began
    files = contents(folder / "truth")
    for i in range(10**6):
        path = folder / f"s{i}"
        resumed(killer, doomed.sweep, path, whole=whole)
        same = ts.load_sweep(path).to_pandas().equals(truth.to_pandas())
        yield "" if same and contents(path) == files else f"{sorted(contents(path))}"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def saved(killer: Killer, folder: Path) -> Iterator[str]:
    path = folder / "b.safetensors"
    whole = [doomed.bank_of(n).save(folder / f"{n}").read_bytes() for n in (2, 3)]
    names = {"b.safetensors", "2", "3"}
    doomed.bank_of(2).save(path)
    while True:
        killer.kill(doomed.save, path, within=0.2)
        torn = path.read_bytes() not in whole
        doomed.bank_of(2).save(path)
        left = {p.name for p in folder.iterdir()} - names
        yield "torn" if torn else str(left or "")


def logged(killer: Killer, folder: Path, program: Doomed) -> Iterator[str]:
    path, told = folder / "a.sqlite", folder / "told"
    for i in range(10**6):
        if i % 5 == 0:  # newborn logs die as well as old ones
            for left in folder.iterdir():
                left.unlink()
        killer.kill(program, path, told, within=0.3)
        lines = told.read_text().split("\n")[:-1] if told.exists() else []
        yield missed(path, lines, named=program is doomed.log)


def missed(path: Path, told: list[str], *, named: bool) -> str:
    """What is wrong with a log: rows that were acknowledged are there, none is there twice."""
    if not path.exists():
        return "no log" if told else ""
    try:
        ids = [row["id"] for row in read_log(path, "requests")]
        if ids or told:
            verify_log(path)
    except SteerError as error:
        return str(error)
    if len(set(ids)) < len(ids):
        return "doubled"
    lost = len(set(told) - set(ids)) if named else max(0, len(told) - len(ids))
    return f"{lost} rows lost" if lost else ""


def cases() -> dict[str, tuple[str, Callable[[Killer, Path], Iterator[str]]]]:
    made = {
        f"`elicit(checkpoint=)`, {name}": ("elicit", lambda k, f, n=name: elicited(k, f, n))
        for name in doomed.METHODS
    }
    return {
        **made,
        "`sweep(resume=)`": ("sweep", swept),
        "`Bank.save` over an old file": ("save", saved),
        "`AuditLog`, one writer": ("log", lambda k, f: logged(k, f, doomed.log)),
        "`watch(log=)`": ("watch", lambda k, f: logged(k, f, doomed.watch)),
    }


def rows(processes: Any, sizes: dict[str, int], seed: int = 0) -> list[Row]:
    """Every case until it has had as many kills as `sizes` says."""
    done = []
    for what, (size, case) in cases().items():
        killer, failures = Killer(processes, seed), []
        with tempfile.TemporaryDirectory() as folder:
            found = case(killer, Path(folder))
            while killer.kills < sizes[size]:
                wrong = next(found)
                failures += [wrong] if wrong else []
        done.append(Row(what, killer.kills, len(failures), "; ".join(failures)[:200]))
        print(done[-1], flush=True)
    return done


def main() -> None:
    torch.set_num_threads(1)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [TESTS, os.environ.get("PYTHONPATH", "")]
    )  # before Python 3.13 the server gets no sys.path
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["doomed"])
    found = rows(processes, FULL)
    write("kill -9", PROMISE, found, command="python tests/reliability/torture_kills.py")
    sys.exit(any(row.failures for row in found))


if __name__ == "__main__":
    main()
