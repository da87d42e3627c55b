"""How a vector changes attention."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.files.text import capped
from tl_steer.inspection.result import Inspection
from tl_steer.views.page import rounded, thousandths
from tl_steer.views.view import View

_TOKENS = 64  # shown in a pattern: a cell has to be seen


def attention_change(seen: Inspection, vector: int, *, heads: int = 12) -> View:
    """Which heads look elsewhere: unsteered and steered attention and their difference.

    Args:
        vector: its number in the bank.
        heads: at most so many patterns; those that change most come first.

    The number of a head is the total variation between its two patterns, mean over destination
    tokens: the share of attention that moved. It says nothing of what the head then wrote. On long
    prompts the 64 tokens whose attention moves most are shown.

    Raises:
        SettingError: the vector was not inspected.
    """
    v = seen.index(vector)
    n = len(seen.tokens)
    patterns = seen.patterns[v, :heads].float()
    shown = _most_moved(patterns, min(n, _TOKENS))
    patterns = patterns[:, :, shown][..., shown]
    kept = [
        {
            "layer": layer,
            "head": head,
            "change": rounded(seen.attention_change[v, layer, head]),
            "patterns": [_lower(pattern) for pattern in patterns[k]],
        }
        for k, (layer, head) in enumerate(seen.kept[v, :heads].tolist())
    ]
    data = {
        "tokens": [capped(seen.tokens[i]) for i in shown.tolist()],
        "places": shown.tolist(),
        "total": n,
        "change": rounded(seen.attention_change[v], 3),
        "kept": kept,
    }
    lines = [
        f"head {head['layer']}.{head['head']}: {float(head['change']):.3f} of its attention moved"
        for head in kept[:5]
    ]
    lines = lines or ["no attention patterns were kept"]
    if len(shown) < n:
        lines.append(f"{len(shown)} of {n} tokens shown, those whose attention moves most")
    title = f"Attention under vector {vector}"
    return View("attention_change", title, data, tuple(lines), 900, circuitsvis=True)


def _most_moved(patterns: Float[Tensor, "kept 2 pos pos"], most: int) -> Int[Tensor, " shown"]:
    """Tokens from or to which most attention moves, in their order."""
    if patterns.shape[0] == 0:
        return torch.arange(min(most, patterns.shape[-1]), device="cpu")
    moved = (patterns[:, 1] - patterns[:, 0]).abs()
    amount = (moved.sum(dim=-1) + moved.sum(dim=-2)).sum(dim=0)
    return amount.topk(most).indices.sort().values


def _lower(pattern: Float[Tensor, "dest src"]) -> list[list[int]]:
    """Rows of a causal pattern without what lies ahead; a pattern that looks ahead keeps it."""
    rows: list[list[int]] = thousandths(pattern)
    ahead = any(any(row[i + 1 :]) for i, row in enumerate(rows))
    return rows if ahead else [row[: i + 1] for i, row in enumerate(rows)]
