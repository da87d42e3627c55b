"""A bar for whoever waits."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(
    label: str, text: str, *, total: int | None, done: int = 0, shown: bool
) -> Iterator[Callable[..., None]]:
    """Inside, call what it gives with rich's own `completed=`, `advance=` and `total=`, and with
    `said=`, which `text` may show as `{task.fields[said]}`.

    Args:
        done: what an earlier process did, which must not count as speed.
    """
    # Late: not everybody who learns a bank shows a bar.
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), TextColumn(text), TimeRemainingColumn())
    # A step may take many minutes, and those older than the period are no speed any more.
    period = 24 * 3600.0
    with Progress(
        *columns, disable=not shown, transient=True, speed_estimate_period=period
    ) as progress:
        task = progress.add_task("", total=total, completed=done, said="…")
        yield functools.partial(progress.update, task, refresh=True)
