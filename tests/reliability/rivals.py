"""Two processes that want one file, and threads that write one path."""

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import tiny_run
import tiny_sweep
from evidence import Row

import tl_steer as ts
from tl_steer.errors import SteerError

PATIENCE = 120  # seconds that a child is given before the case counts as failed


def rivals(home: Path, *, times: int) -> list[Row]:
    """A run and a second one on its file, both ways of running."""
    rows = []
    for name, run, whole in (("checkpoint", _elicit, _bank), ("sweep folder", _sweep, _cells)):
        expected = whole(run(home / f"{name} alone"))
        failed = sum(
            _second(home / f"{name} {i}", run) or whole(home / f"{name} {i}") != expected
            for i in range(times)
        )
        rows.append(Row(f"two processes, one {name}", times, failed))
    return rows


def _second(path: Path, run: Any) -> bool:
    """Whether the second of two was let in, or the first did not end well."""
    own = multiprocessing.get_context("fork")
    begun, refused = own.Event(), own.Event()
    said: Any = own.Queue()
    first = own.Process(target=_first, args=(run, path, begun, refused, said))
    first.start()
    if not begun.wait(PATIENCE):
        return True
    try:
        run(path)
        told = ""
    except SteerError as error:
        told = str(error)
    refused.set()
    ended = said.get(timeout=PATIENCE)
    first.join(PATIENCE)
    return f"process {first.pid} on" not in told or ended != "well"


def _first(run: Any, path: Path, begun: Any, refused: Any, said: Any) -> None:
    from tl_steer.files import write

    rename = write.os.replace

    def replace(draft: Any, final: Any) -> None:
        # In the middle of its first write, until the second has come and gone.
        begun.set()
        refused.wait(PATIENCE)
        rename(draft, final)

    write.os.replace = replace
    try:
        run(path)
        said.put("well")
    except BaseException as error:
        said.put(repr(error))


def _elicit(path: Path) -> Path:
    tiny_run.run(checkpoint=path, every=0)
    return path


def _bank(path: Path) -> str:
    return ts.load_bank(path).digest()


def _sweep(path: Path) -> Path:
    tiny_sweep.run(path)
    return path


def _cells(path: Path) -> Any:
    return repr(ts.load_sweep(path).cells().to_pylist())


def threads(home: Path, *, writes: int) -> Row:
    """Threads that save banks to one path, and one that reads whatever is there."""
    made = tiny_sweep.bank(tiny_sweep.Reading())
    banks, path = [made, made.label(0, "x" * 4000), made[[0]]], home / "threads.safetensors"
    allowed = {(len(b), b.labels) for b in banks}
    made.save(path)
    wrong: list[str] = []

    def saving(bank: ts.Bank) -> None:
        for _ in range(writes // len(banks)):
            try:
                bank.save(path)
                found = ts.load_bank(path)
                if (len(found), found.labels) not in allowed:
                    wrong.append("mixed")
            except Exception as error:
                wrong.append(repr(error))

    workers = [threading.Thread(target=saving, args=(bank,)) for bank in banks]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    left = [p.name for p in home.iterdir() if p.name.endswith((".part", ".lock"))]
    return Row("threads, one path", writes, len(wrong) + len(left), "; ".join(wrong[:2]))
