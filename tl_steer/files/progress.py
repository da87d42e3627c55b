"""What is told to whoever waits: a bar on a terminal and in a notebook, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from tl_steer.files.draws import draws_kept

# Called with `completed=` or `advance=`, `total=`, and `said=` in words; each as far as it is news.
Show: TypeAlias = Callable[..., None]


def unseen(**_news: Any) -> None:
    """A `Show` for nobody."""


@dataclass(frozen=True)
class _At:
    """How far it is."""

    completed: int
    total: int | None
    said: str = ""

    def line(self, text: str) -> str:
        """`text` with the numbers in it; before they are known, what is said alone."""
        if not self.total:
            return self.said
        return text.format(done=self.completed, total=self.total, said=self.said)

    @property
    def tenth(self) -> object:
        """What a plain line is worth printing for: a tenth more of it, or other words before."""
        if not self.total:
            return self.said
        return self.total, self.completed * min(10, self.total) // self.total


@contextmanager
def bar(label: str, text: str, *, total: int | None, done: int = 0, shown: bool) -> Iterator[Show]:
    """Inside, call what it gives with `completed=`, `advance=`, `total=` and `said=`.

    Args:
        text: what stands beside the label, with `{done}`, `{total}` and `{said}` in it.
        done: what an earlier process did, which must not count as speed.

    Where nobody sees a bar move, ten lines or so go to standard error, and one for all that is
    said before the total is known.
    """
    at = _At(done, total)
    with _shown(label, at) if shown else nullcontext(unseen) as draw:

        def show(*, advance: int = 0, **news: Any) -> None:
            nonlocal at
            at = replace(at, **({"completed": at.completed + advance} | news))
            draw(at=at, line=at.line(text))

        if at.total:
            show()
        yield show


def _shown(label: str, at: _At) -> AbstractContextManager[Callable[..., None]]:
    with draws_kept():  # late: not everybody who learns a bank shows a bar
        from rich.console import Console

    console = Console()
    if console.is_terminal or console.is_jupyter:
        return _moving(label, at)
    return nullcontext(_Plain(label))


@contextmanager
def _moving(label: str, at: _At) -> Iterator[Callable[..., None]]:
    with draws_kept():
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(label, markup=False),
        BarColumn(),
        TextColumn("{task.fields[line]}", markup=False),
        TimeRemainingColumn(),
    )
    # A step may take many minutes, and those older than the period are no speed any more.
    period = 24 * 3600.0
    with Progress(*columns, transient=True, speed_estimate_period=period) as progress:
        task = progress.add_task("", total=at.total, completed=at.completed, line="…")

        def draw(*, at: _At, line: str) -> None:
            progress.update(task, completed=at.completed, total=at.total, line=line, refresh=True)

        yield draw


class _Plain:
    """Lines, as little as tells that something goes on."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._told: object = None

    def __call__(self, *, at: _At, line: str) -> None:
        if line and at.tenth != self._told:
            self._told = at.tenth
            sys.stderr.write(f"{self.label} {line}\n")
            sys.stderr.flush()
