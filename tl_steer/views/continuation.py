"""What a vector makes a model write, token by token."""

from typing import Any

import torch

from tl_steer.files.tables import shorten
from tl_steer.inspection.generated import Continuations
from tl_steer.views.page import rounded, shares
from tl_steer.views.view import View


def continuation(found: Continuations, vector: int, *, heads: int = 6) -> View:
    """The text written under a vector, each token coloured by its log-ratio: its log-probability
    under the vector less the unsteered model's on the same text, in nats. Picked, a token shows
    what else could have stood there, where the heads that changed most look, and which components
    carry the change. Below, the unsteered text and what the vector thinks of it.

    Args:
        vector: its number in the bank.
        heads: whose attention is shown of each token, at most; the mean over all of them always is.

    A greedy text is one sample: that a token hangs on the vector does not say that the behaviour
    does. Attribution is direct, as in `logit_attribution`.

    Raises:
        SettingError: the vector was not continued.
    """
    v = found.index(vector)
    n = int(found.lengths[v])
    along = len(found.tokens) + n - 1
    data = {
        "prompt": list(found.tokens),
        "tokens": [found.word(token) for token in found.new[v, :n].tolist()],
        "lp": rounded(found.lp[v, :, :n]),
        "rank": found.rank[v, :, :n].tolist(),
        "kl": rounded(found.kl[v, :n], 3),
        "likely": [_alternatives(found, v, k) for k in range(n)],
        "unsteered": [found.word(token) for token in found.own.tolist()],
        "unsteered_lp": rounded(found.own_lp[[0, v + 1]]),
        "heads": [_heads(found, v, k)[:heads] for k in range(n)],
        "rows": shares(found.rows[v, :n, :heads, :, :along]),
        "mean": shares(found.mean_rows[v, :n, :, :along]),
        "attends": bool(found.mean_rows[v, :n, :, :along].isfinite().any()),
        "against": [found.word(token) for token in found.against[v, :n].tolist()],
        "moved": rounded(found.moved[v, :n], 3),
        "direct": rounded(found.direct[v, :n], 3) if bool(found.direct.isfinite().any()) else None,
        "by_head": [_parts(found, v, k) for k in range(n)],
        "source": found.source,
        "source_layer": found.source_layer,
    }
    title = f"Text under vector {vector}"
    return View("continuation", title, data, _lines(found, vector), 900)


def _lines(found: Continuations, vector: int) -> tuple[str, ...]:
    v = found.index(vector)
    ratio = found.log_ratio(vector)
    most = ratio.nan_to_num(-torch.inf).topk(min(3, len(ratio))).indices.tolist()
    said = [
        f"token {k}, {shorten(found.word(int(found.new[v, k])), 20)!r}: {float(ratio[k]):+.3g} nats"
        for k in most
    ]
    return (
        f"unsteered: {shorten(found.unsteered, 100)!r}",
        f"steered: {shorten(found.texts[v], 100)!r}",
        *said,
    )


def _alternatives(found: Continuations, v: int, k: int) -> list[list[Any]]:
    """The likeliest tokens of either model, each once: [word, unsteered, steered], in nats."""
    ids = found.likely[v, :, k].flatten().tolist()
    lp = rounded(found.likely_lp[v, :, k].flatten(0, 1))
    once = dict(zip(ids, lp, strict=True))
    return [[found.word(token), *both] for token, both in once.items()]


def _heads(found: Continuations, v: int, k: int) -> list[list[Any]]:
    places, change = found.kept[v, k].tolist(), rounded(found.change[v, k], 3)
    return [[*place, moved] for place, moved in zip(places, change, strict=True)]


def _parts(found: Continuations, v: int, k: int) -> list[list[Any]]:
    places, part = found.by_head[v, k].tolist(), rounded(found.by_head_part[v, k], 3)
    known = found.by_head_part[v, k].isfinite().tolist()
    return [[*p, x] for p, x, told in zip(places, part, known, strict=True) if told]
