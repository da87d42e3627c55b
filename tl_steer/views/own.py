"""A view of one's own: data and a small JavaScript function, or a picture that is text already.

It is shown as ours are: the same page, the same policy (no request, no script but those named by
their hashes), the same sandboxed frame in a notebook.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tl_steer.errors import SettingError, ShapeError
from tl_steer.files.signatures import typed
from tl_steer.views.markup import nodes_of, svg_of
from tl_steer.views.page import drawn_by
from tl_steer.views.view import View

# What would end a script's element, or begin a state of the browser's parser that hides its end.
_ENDS = ("<!--", "<script", "</script")


@typed
def own_view(
    title: str,
    data: Any = None,
    *,
    script: str | None = None,
    svg: str | None = None,
    html: str | None = None,
    lines: Sequence[str] = (),
    height: int = 400,
) -> View:
    """A view that your own function of data draws, or one of SVG or HTML.

    Args:
        title: its heading.
        data: for `script`: numbers, texts, lists and dicts. Tensors and arrays become lists; NaN
            comes to JavaScript as null, infinity as "inf".
        script: the source of a JavaScript function `(root, data, T) => ...`. It draws into the
            element `root`, or returns an element; `T` is what our own views are made of:
            `T.el(tag, attributes, ...children)`, `T.svg`, `T.bars`, `T.grid`, `T.tokens`, `T.num`,
            and `T.figure(name, node, rows)`, which gives a picture buttons that save it
            (tl_steer/views/web/core.js). It runs as part of the page, so never build it from what a
            model or a file said: that belongs into `data`.
        svg: an image, as matplotlib's `savefig("plot.svg")` writes it. Shown as browsers show
            images: nothing in it runs, nothing is loaded.
        html: a table or a text, as pandas' `to_html` gives it. Rebuilt from the elements,
            attributes and styles that are harmless; scripts, links, forms and everything else is
            left out, and so are references to files and addresses.
        lines: the same in a few words, for a terminal.
        height: about how high it is, in pixels.

    Raises:
        SettingError: not exactly one of `script`, `svg` and `html`; a script that would end its own
            element; an image that is no SVG.
        ShapeError: data that is no JSON.
    """
    given = [name for name, text in (("script", script), ("svg", svg), ("html", html)) if text]
    if len(given) != 1:
        raise SettingError(
            f"own_view({title!r}) got {' and '.join(given) or 'nothing to draw'}: expected one of "
            "script=, svg= and html=."
        )
    kind, shown = given[0], _plain(data)
    if data is not None and not script:
        raise SettingError(f"own_view({title!r}): data is for script=; {kind}= is drawn as it is.")
    if script:
        _refuse_end(script)
        kind = drawn_by(script)
    elif svg:
        shown = {"base64": svg_of(svg), "alt": title}
    elif html:
        shown = {"nodes": nodes_of(html)}
    return View(kind, title, shown, tuple(lines), height, drawing=script or "")


def _refuse_end(script: str) -> None:
    for text in _ENDS:
        if text in script.lower():
            raise SettingError(
                f"The script of a view holds {text!r}, which a page takes for the end of it. Put "
                "texts into data=."
            )


def _plain(value: Any, place: str = "data") -> Any:
    """As JSON has it."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{place}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{place}[{name!r}]") for name, item in value.items()}
    raise ShapeError(
        f"own_view(): {place} is a {type(value).__name__}; expected numbers, texts, lists and "
        "dicts, or tensors and arrays of numbers."
    )
