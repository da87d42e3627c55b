"""How a vector changes attention: every head, and the patterns of those that change most."""

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed
from tl_steer.files.text import capped, shorten
from tl_steer.inspection.result import Inspection
from tl_steer.views.control import ends, refuse_other, told
from tl_steer.views.page import rounded, shares
from tl_steer.views.view import View

_TOKENS = 64  # shown in a pattern: a cell has to be seen
_GAINED = 4  # tokens gained come first among those that effects are attributed to


@typed
def attention_change(
    seen: Inspection,
    vector: int,
    *,
    heads: int | Literal["all"] = 12,
    control: Inspection | None = None,
) -> View:
    """Which heads look elsewhere: all of them by how much of their attention moves, and what each
    looks at, unsteered, steered and the difference.

    Args:
        vector: its number in the bank.
        heads: at most so many whole patterns of those that the inspection kept, or "all"; those
            that change most come first. Of every other head there is the last token's row, where
            the inspection has it.
        control: random vectors on the same prompt, whose 5 to 95 % band stands beside every head;
            those that move no further than that are drawn small and grey.

    The number of a head is the total variation between its two patterns, mean over destination
    tokens: the share of attention that moved. It says nothing of what the head then wrote: the
    marks do, which are its part of the change of a difference of two logits behind the prompt, the
    token gained most less the token lost most (`logit_attribution`). On long prompts the 64 tokens
    whose attention moves most are shown, the last one among them; attention to others is left out.
    Attention is shown to 1/255.

    Raises:
        SettingError: the vector was not inspected; `heads` is negative; `control` is of another
            prompt or place.
    """
    v = seen.index(vector)
    refuse_other(seen, control)
    if heads != "all" and heads < 0:
        raise SettingError(f'heads={heads}: expected a number of at least 0, or "all".')
    n, kept = len(seen.tokens), seen.kept.shape[1] if heads == "all" else int(heads)
    kept = min(kept, seen.kept.shape[1])
    shown = _most_moved(seen.patterns[v, :kept].float(), min(n, _TOKENS))
    data = {
        "tokens": [capped(seen.tokens[i]) for i in shown.tolist()],
        "places": shown.tolist(),
        "total": n,
        "change": rounded(seen.attention_change[v], 3),
        "attribution": _attribution(seen, v),
        "kept": [_pattern(seen, v, k, shown) for k in range(kept)],
        "last": _last_rows(seen, v, shown),
        "control": told(control),
        "band": None if control is None else ends(control.attention_change),
    }
    title = f"Attention under vector {vector}"
    return View("attention_change", title, data, tuple(_lines(seen, v, len(shown))), 980)


def _lines(seen: Inspection, v: int, shown: int) -> list[str]:
    """The heads that change most, in words."""
    change, by = seen.attention_change[v], _toward(seen, v)
    there = int((~change.isnan()).sum())
    lines = [] if there else ["this model shows no attention"]
    for at in change.nan_to_num(-1.0).flatten().topk(min(5, there)).indices.tolist():
        layer, head = divmod(at, change.shape[1])
        line = f"head {layer}.{head}: {float(change[layer, head]):.3f} of its attention moved"
        if by is not None and not bool(by[layer, head].isnan()):
            line += f", {float(by[layer, head]):+.3g} of {_difference(seen, v)}"
        lines.append(line)
    if shown < len(seen.tokens):
        lines.append(
            f"{shown} of {len(seen.tokens)} tokens shown, those whose attention moves most"
        )
    return lines


def _most_moved(patterns: Float[Tensor, "kept 2 pos pos"], most: int) -> Int[Tensor, " shown"]:
    """The last token and those from or to which most attention moves, in their order."""
    moved = (patterns[:, 1] - patterns[:, 0]).abs().nan_to_num(0.0)
    amount = (moved.sum(dim=-1) + moved.sum(dim=-2)).sum(dim=0)
    amount[-1] = torch.inf
    return amount.topk(most).indices.sort().values


def _pattern(seen: Inspection, v: int, k: int, shown: Int[Tensor, " shown"]) -> dict[str, Any]:
    """One head's two patterns. A causal one is its lower triangle, row by row, as one list."""
    layer, head = seen.kept[v, k].tolist()
    both = seen.patterns[v, k].float()[:, shown][..., shown]
    gone = (~both.isfinite()).any(dim=-1).nonzero().tolist()
    if not bool(both.nan_to_num(0.0).triu(1).any()):
        below = torch.ones(both.shape[1:], dtype=torch.bool, device=both.device).tril()
        both = both[:, below]
    return {
        "head": [layer, head],
        "unsteered": shares(both[0], shared=True),  # the same for every vector
        "steered": shares(both[1]),
        "gone": gone,
    }


def _last_rows(seen: Inspection, v: int, shown: Int[Tensor, " shown"]) -> dict[str, Any] | None:
    """What every head looks at from the last token. Steered rows come as their difference from the
    unsteered ones, modulo 256: mostly zeros, which take little room."""
    if seen.last_rows is None:
        return None
    rows = seen.last_rows[v].float()[..., shown]
    whole = (rows.nan_to_num(0.0).clamp(0, 1) * 255).round()
    moved = (whole[:, :, 1] - whole[:, :, 0]).remainder(256)
    return {
        "unsteered": shares(whole[:, :, 0] / 255, shared=True),
        "moved": shares(moved / 255),
        "gone": (~rows.isfinite()).any(dim=-1).nonzero().tolist(),
    }


def _toward(seen: Inspection, v: int) -> Float[Tensor, "layer head"] | None:
    """Each head's part of the change of the logit gained most less that lost most."""
    if seen.toward.shape[1] == 0 or bool(seen.heads[v].isnan().all()):
        return None
    lost = min(_GAINED, seen.gained.shape[2])
    return seen.heads[v, ..., 0] - seen.heads[v, ..., lost]


def _difference(seen: Inspection, v: int) -> str:
    lost = min(_GAINED, seen.gained.shape[2])
    gain, loss = (shorten(seen.word(int(seen.toward[v, i])), 20) for i in (0, lost))
    return f"logit({gain!r}) - logit({loss!r})"


def _attribution(seen: Inspection, v: int) -> dict[str, Any] | None:
    by = _toward(seen, v)
    if by is None:
        return None
    lost = min(_GAINED, seen.gained.shape[2])
    gain, loss = (seen.word(int(seen.toward[v, i])) for i in (0, lost))
    return {"heads": rounded(by, 3), "gained": gain, "lost": loss}
