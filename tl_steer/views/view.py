"""A view: a picture of a result that shows itself in a notebook and saves itself as a page."""

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_steer.errors import SettingError
from tl_steer.files.text import capped, one_line, plain
from tl_steer.files.write import write_beside
from tl_steer.views.drawn import drawn
from tl_steer.views.page import asset, document

_count = itertools.count(1)


ENDINGS = (".html", ".svg", ".png", ".csv")


def ending(path: str | Path, known: Sequence[str] = ENDINGS) -> str:
    """What a path ends with, which says what is written there.

    Raises:
        SettingError: it ends with none of those that are known.
    """
    found = Path(path).suffix.lower()
    if found not in known:
        raise SettingError(f"{Path(path).name!r} should end with {' or '.join(known)}.")
    return found


@dataclass(frozen=True, eq=False)
class View:
    """A picture of a result. It needs no model, no network and no file beside it.

    Attributes:
        kind: which picture.
        title: what it shows.
        data: every number and text in it, as JSON has them.
        lines: the same in a few words, for a terminal.
        height: about how high it is, in pixels, until it is drawn.
        circuitsvis: whether a component of CircuitsVis is in it (0.48 MB of script).
        drawing: a JavaScript function that draws it, where it is not of a kind of ours
            (`own_view`).
    """

    kind: str
    title: str
    data: Any
    lines: tuple[str, ...] = ()
    height: int = 400
    circuitsvis: bool = False
    drawing: str = ""

    def html(self) -> str:
        """A whole page."""
        return document(
            self.title,
            {"view": {"kind": self.kind, "title": self.title, "data": self.data}},
            start="TlSteer.page();",
            circuitsvis=self.circuitsvis,
            drawings=(self.drawing,) if self.drawing else (),
        )

    def save(self, path: str | Path) -> Path:
        """Write it as what the path ends with: `.html`, a page in one file that opens offline;
        `.svg` or `.png`, a picture of all that it shows at first; `.csv`, its numbers.

        Pictures and numbers are what the page itself saves, so they need an installed Chromium
        (`pip install "tl_steer[browser]"`). A CSV of several tables has the name of each above it.

        Raises:
            SettingError: another ending; no playwright or no Chromium; a view without a table.
            WriteError: the file cannot be written.
        """
        kind = ending(path)
        # A lone surrogate has no UTF-8; all text was made printable before it got here.
        page = self.html()
        write_beside(Path(path), page.encode("utf-8") if kind == ".html" else drawn(page, kind))
        return Path(path)

    def __repr__(self) -> str:
        return "\n".join(
            [one_line(capped(self.title, 160)), *(f"  {plain(line)}" for line in self.lines)]
        )

    def _repr_html_(self) -> str:
        """In a frame of its own, with scripts but no access to the notebook around it: a model's
        output is not to be trusted with a kernel. It may save files, which the browser names in
        its list of downloads. Where a notebook lets no script run, its words stand there."""
        name = f"tl-steer-view-{next(_count)}-{abs(hash(self)) % 10**9}"
        return (
            f'<iframe id="{name}" title="{html.escape(one_line(capped(self.title, 160)))}" '
            f'sandbox="allow-scripts allow-downloads" srcdoc="{html.escape(self.html())}" '
            f'style="width:100%;height:{self.height}px;border:0;resize:vertical;overflow:auto">'
            f'</iframe><pre id="{name}-words">{html.escape(repr(self))}</pre>'
            f"<style>@media print{{#{name}{{height:var(--printed,{self.height}px)!important}}}}"
            f"</style><script>({asset('frame.js').strip()})('{name}')</script>"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}
