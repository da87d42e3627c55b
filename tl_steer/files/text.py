"""Text from models and files, made fit for terminals, notebooks and logs.

A model can emit terminal escape sequences, markup, and text that reorders what surrounds it; so can
whoever wrote a file. `plain` is the one place that takes them away: `SteerError` puts its message
through it, and whatever prints goes through one of these.
"""

import difflib
from collections.abc import Iterable

from tl_steer.errors import plain as plain


def said(error: BaseException, *, most: int) -> str:
    """Somebody else's error in a line: its class, and the first line of what it says."""
    words = str(error).strip().partition("\n")[0][:most]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def one_line(text: str) -> str:
    """Text without line breaks and tabs, for cells, titles and progress lines."""
    return plain(text).replace("\n", "⏎").replace("\t", "⇥")


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters."""
    line = one_line(text)
    return line if len(line) <= width else line[: width - 1] + "…"


def capped(text: str, most: int = 64) -> str:
    """At most `most` characters of a token, a label or a title, and how many there were.

    For pages, where a hostile file would put megabytes into every cell.
    """
    return text if len(text) <= most else f"{text[:most]}…({len(text):,})"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question behind an error, where one of the names is like what was written."""
    near = difflib.get_close_matches(name.lower(), list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
