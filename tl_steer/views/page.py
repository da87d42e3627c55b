"""One self-contained HTML page: styles, scripts and data inline, and a policy that allows no other.

Nothing a model or a file said ever becomes markup. Data goes into a JSON block and from there into
text nodes; only scripts with the hashes named in the page's Content-Security-Policy can run, so
an injected one could not, nor an `onerror` attribute, and no request can leave the page.
"""

import base64
import functools
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_steer.files.text import capped, plain
from tl_steer.views.blocks import Shared, deflated, finite

_SCRIPTS = (
    "core.js",
    "charts.js",
    "plot.js",
    "windowed.js",
    "control.js",
    "export.js",
    "print.js",
    "circuitsvis.js",
    "diff.js",
    "cells.js",
    "grid.js",
    "pattern.js",
    "looks.js",
    "headlist.js",
    "attention.js",
    "likelihood.js",
    "logits.js",
    "stream.js",
    "texts.js",
    "strengths.js",
    "continuation.js",
    "plane.js",
    "bank.js",
    "sweep.js",
    "scan.js",
    "alerts.js",
    "monitor.js",
    "rates.js",
    "time.js",
)
_OF_CIRCUITSVIS = ("components.js",)
_OF_REPORTS = (
    "notes.js",
    "list.js",
    "vector.js",
    "compare.js",
    "ask.js",
    "live.js",
    "report.js",
)
_STYLES = (
    "style.css",
    "export.css",
    "circuitsvis.css",
    "report.css",
    "control.css",
    "strengths.css",
    "continuation.css",
    "heads.css",
    "notes.css",
    "compare.css",
    "live.css",
    "monitor.css",
    "print.css",
)


def document(
    title: str,
    data: Mapping[str, Any],
    *,
    start: str,
    circuitsvis: bool,
    drawings: Sequence[str] = (),
    later: Mapping[str, str] | None = None,
    live: Mapping[str, Any] | None = None,
) -> str:
    """A page that draws `data`.

    Args:
        title: for the browser's window.
        data: JSON values by the id of the block that will hold them.
        start: the script line that draws them. Ours, never built from data.
        circuitsvis: whether CircuitsVis (0.48 MB, deflated) is needed. It starts when one of its
            components is first drawn (`web/circuitsvis.js`).
        drawings: the sources of JavaScript functions of one's own, one for each `drawn_by` kind.
        later: packed blocks (`blocks.Words`), behind what is drawn first; CircuitsVis comes behind
            them too, so that a large page shows something before it has been read.
        live: what a page has to know of the server that gave it, and may talk to; `None` of a file,
            which talks to nobody.
    """
    further = (_OF_CIRCUITSVIS if circuitsvis else ()) + (() if later is None else _OF_REPORTS)
    ours = "\n".join([*map(asset, _SCRIPTS + further), start])
    theirs = [circuitsvis_script()] if circuitsvis else []
    # Each in an element of its own: one that is no JavaScript leaves the rest of the page alone.
    own = [_entered(drawing) for drawing in dict.fromkeys(drawings)]
    style = "".join(map(asset, _STYLES))
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, (ours, *own, *theirs)))}; "
        f"style-src {_hash(style)}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    if live is not None:
        data, policy = {**data, "live": live}, f"{policy}; connect-src 'self'"
    packed = dict(later or {})
    if circuitsvis:
        packed["circuitsvis"] = _deflated(circuitsvis_script())
    body = [*_blocks(data), *map(_script, (*own, ours)), *_packed(packed)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{html.escape(plain(capped(title, 160)))}</title>\n"
        f"<style>{style}</style>\n</head>\n<body>\n"
        '<main id="root"></main>\n<noscript>This page is drawn by its own script: switch '
        "JavaScript on. Nothing is loaded from anywhere.</noscript>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _script(source: str) -> str:
    return f"<script>{source}</script>"


def drawn_by(drawing: str) -> str:
    """The kind of a view that a function of one's own draws."""
    return f"own-{hashlib.sha256(drawing.encode()).hexdigest()[:12]}"


def _entered(drawing: str) -> str:
    """A script that puts a function where `core.js` finds it."""
    return (
        '"use strict";\n(globalThis.TlSteerOwn ??= {})["'
        f'{drawn_by(drawing)}"] = (\n{drawing.strip().removesuffix(";")}\n);'
    )


def _blocks(data: Mapping[str, Any]) -> list[str]:
    return [
        f'<script type="application/json" id="{html.escape(name)}">{embedded(value)}</script>'
        for name, value in data.items()
    ]


def _packed(blocks: Mapping[str, str]) -> list[str]:
    return [
        f'<script type="text/plain" id="{html.escape(name)}">{text}</script>'
        for name, text in blocks.items()
    ]


def embedded(value: Any) -> str:
    """JSON that is safe inside a script element: ASCII, no `<`, `>` or `&`, no NaN."""
    text = json.dumps(_clean(value), allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _clean(value: Any) -> Any:
    """What cannot be shown or is no JSON becomes text or nothing."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, Mapping):
        return {plain(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value


def rounded(values: Any, digits: int = 4) -> Any:
    """A number, or nested lists of them, with a few significant digits: a view is for eyes.

    Takes tensors, arrays, lists and single numbers.
    """
    known = values.detach().double().cpu().numpy() if isinstance(values, Tensor) else values
    array = np.asarray(known, dtype=np.float64)
    with np.errstate(all="ignore"):
        places = digits - 1 - np.floor(np.log10(np.abs(array)))
        # Powers of ten are whole numbers on either side, so that decimals come out short.
        fine, coarse = (10.0 ** np.clip(sign * places, 0, 300) for sign in (1, -1))
        decimals, whole = np.rint(array * fine) / fine, np.rint(array / coarse) * coarse
    short = np.where(places >= 0, decimals, whole)
    return np.where(np.isfinite(short) & (array != 0), short, array).tolist()


def shares(values: Tensor, *, shared: bool = False) -> dict[str, Any]:
    """Numbers from 0 to 1 as bytes, to 1/255: a quarter of the room of text, and quickly made.

    `T.shares` in the page makes nested lists of them again. NaN becomes 0. Those that other blocks
    of a report hold too are `shared`, and in it once.
    """
    whole = (values.double().clamp(0, 1) * 255).round().nan_to_num(0.0).to(torch.uint8)
    text = base64.b64encode(whole.contiguous().cpu().numpy().tobytes()).decode("ascii")
    return {"u8": Shared(text) if shared else text, "shape": list(values.shape)}


@functools.cache
def asset(name: str) -> str:
    return (files("tl_steer.views") / "web" / name).read_text(encoding="utf-8")


@functools.cache
def circuitsvis_script() -> str:
    """CircuitsVis as one classic script, which defines the global `CircuitsVis`.

    Read from the installed package. Its own `render` would ask the network where to load it from,
    and nests views in each other, because the element that it writes is never closed.
    """
    import circuitsvis

    path = Path(circuitsvis.__file__).parent / "dist" / "cdn" / "iife.js"
    return path.read_text(encoding="utf-8")


_deflated = functools.cache(deflated)


@functools.cache
def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
