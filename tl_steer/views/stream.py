"""How the response runs through the residual stream, and where it was put in."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.files.tables import shorten
from tl_steer.files.text import capped
from tl_steer.inspection.result import Inspection
from tl_steer.views.control import ends, refuse_other, told
from tl_steer.views.page import rounded
from tl_steer.views.view import View

_COLUMNS = 96  # of tokens in a map


def residual_response(
    seen: Inspection, vector: int, *, words: int = 4, control: Inspection | None = None
) -> View:
    """How the response grows through the layers, token by token, and what the logit lens reads.

    The map shows the norm of the steered minus the unsteered residual stream, over the norm of the
    unsteered one or alone. The lens lists the tokens whose probability rises most if the stream is
    read out there and then, `words` each way, and at choice those whose logit does, which are often
    the least likely of all. Before the last third of a model both are often noise.

    Args:
        control: random vectors on the same prompt, whose 5 to 95 % band stands beside the norms.

    Raises:
        SettingError: the vector was not inspected, or a control of another prompt or place.
    """
    refuse_other(seen, control)
    v = seen.index(vector)
    bins = _bins(len(seen.tokens))
    data = {
        "tokens": [capped(text) for text in seen.tokens],
        "bins": bins,
        "response": rounded(_binned(seen.response[v], bins), 3),
        "share": rounded(_binned(_share(seen)[v], bins), 3),
        "read_at": seen.read_at[v].tolist(),
        "lens": {
            "probability": _by_probability(seen, v, words),
            "logit": _by_logit(seen, v, words),
        },
        "source_layer": seen.source_layer,
        "control": told(control),
        "band": None if control is None else ends(_binned(_share(control), bins), 2),
    }
    last = seen.response[v, :, -1]
    lines = [
        f"norm behind the prompt: {float(last[seen.source_layer + 1]):.3g} at the source, "
        f"{float(last[-1]):.3g} at the end"
    ]
    named = seen.promoted if seen.lens_gained is None else seen.lens_gained
    if named.shape[-1]:
        read = ", ".join(repr(seen.word(int(t))) for t in named[v, -1, -1, :4])
        lines.append(f"the lens reads {read} at the end")
    height = 260 + 24 * seen.response.shape[1]
    return View("residual_response", f"Response to vector {vector}", data, tuple(lines), height)


def _bins(n: int) -> list[list[int]]:
    """First and last token of every column; one token a column where there is room."""
    width = -(-n // _COLUMNS)
    return [[i, min(i + width, n) - 1] for i in range(0, n, width)]


def _binned(values: Tensor, bins: list[list[int]]) -> Tensor:
    return torch.stack([values[..., a : b + 1].amax(dim=-1) for a, b in bins], dim=-1)


def _share(seen: Inspection) -> Float[Tensor, "vec stream pos"]:
    """What changed, over the norm of the stream that it changed."""
    return seen.response / seen.clean.clamp_min(1e-9)


def _by_probability(seen: Inspection, v: int, most: int) -> list[Any] | None:
    """[rising, falling] words of every stream and token that is read: [word, before, after]."""
    sides = [
        (seen.lens_gained, seen.lens_gained_p),
        (seen.lens_lost, seen.lens_lost_p),
    ]
    return [
        _words(seen, ids[v, ..., :most], p[v, ..., :most, :])
        for ids, p in sides
        if ids is not None and p is not None
    ] or None


def _by_logit(seen: Inspection, v: int, most: int) -> list[Any]:
    """The same by logit: [word, how far it moves, probability where it is larger]."""
    sides = [
        (seen.promoted, seen.promoted_by, seen.promoted_p, 1),
        (seen.suppressed, seen.suppressed_by, seen.suppressed_p, 0),
    ]
    found = []
    for ids, by, p, at in sides:
        likely = torch.full_like(by, torch.nan) if p is None else p[..., at]
        told = torch.stack([by, likely], dim=-1)
        found.append(_words(seen, ids[v, ..., :most], told[v, ..., :most, :]))
    return found


def _words(
    seen: Inspection,
    ids: Int[Tensor, "stream read word"],
    told: Float[Tensor, "stream read word 2"],
) -> list[Any]:
    return [
        [
            [[seen.word(token), *both] for token, both in zip(tokens, pairs, strict=True)]
            for tokens, pairs in zip(at, much, strict=True)
        ]
        for at, much in zip(ids.tolist(), rounded(told, 2), strict=True)
    ]


def steered_tokens(seen: Inspection, vector: int, *, control: Inspection | None = None) -> View:
    """Which tokens the vector was added at, and how strongly: the norm of what was added over the
    norm of the activation it was added to.

    Args:
        control: random vectors on the same prompt. Random vectors are as long as the bank's; edits
            of other kinds need not be.

    Raises:
        SettingError: the vector was not inspected, or a control of another prompt or place.
    """
    refuse_other(seen, control)
    v = seen.index(vector)
    share = seen.added[v] / seen.entering.clamp_min(1e-9)
    data = {
        "tokens": [capped(text) for text in seen.tokens],
        "steered": seen.steered.tolist(),
        "added": rounded(seen.added[v], 3),
        "share": rounded(share, 3),
        "source": seen.source,
        "control": told(control),
        "band": None if control is None else ends(control.added / control.entering.clamp_min(1e-9)),
    }
    count = int(seen.steered.sum())
    strongest = int(share.argmax())
    lines = (
        f"added at {count} of {len(seen.tokens)} tokens, at {seen.source}",
        f"strongest at {shorten(seen.tokens[strongest], 20)!r}: {float(share[strongest]):.3g} of "
        "the activation's norm",
    )
    return View("steered_tokens", f"Tokens steered by vector {vector}", data, lines, 260)
