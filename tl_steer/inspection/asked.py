"""What is asked of an inspection or a continuation, and refused before any work."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.origin import Origin
from tl_steer.errors import PromptError, SettingError
from tl_steer.models.model import HookedModel
from tl_steer.models.token_names import token_names
from tl_steer.models.tokens import TokenBatch, tokenize
from tl_steer.perturbations.perturbation import Perturbation, Scale, factors_of

_MEMORY = 1 << 30  # bytes of residual streams and logits in one pass, or of patterns, roughly


@dataclass(frozen=True)
class Part:
    """The vectors of one pass."""

    rows: list[int]
    labels: tuple[str, ...]
    edits: Perturbation


def unsteered_first(edits: Perturbation) -> Perturbation:
    """These edits, and in front of them one that is no edit at all."""
    n = len(edits)
    return edits.beside_unsteered().select([n, *range(n)])


def told_of(
    model: HookedModel,
    bank: Bank,
    origin: Origin,
    tokens: TokenBatch,
    part: Part,
    *named: Tensor,
) -> dict[str, Any]:
    """What every result says of itself: what was run, where, of which vectors, and the texts of
    all tokens that are named in it."""
    tokenizer = getattr(model, "tokenizer", None)
    mentioned = torch.cat([ids.flatten() for ids in named]).unique().tolist()
    return {
        "prompt": tokens.texts[0],
        "model": origin.model,
        "bank": origin.bank,
        "fingerprint": origin.fingerprint,
        "source": bank.source.name,
        "source_layer": bank.source.layer,
        "target": bank.target.name,
        "tokens": token_names(tokenizer, tokens.rows()[0].tolist()),
        "vectors": tuple(bank.numbers[row] for row in part.rows),
        "labels": part.labels,
        "words": dict(zip(mentioned, token_names(tokenizer, mentioned), strict=True)),
    }


def labels_of(bank: Bank, rows: list[int], scale: Scale) -> tuple[str, ...]:
    """The bank's, and how much stronger or weaker each vector acts."""
    factors = factors_of(scale, len(rows)).tolist()
    return tuple(
        bank.labels[row] if by == 1 else f"{bank.labels[row]} × {by:g}".strip()
        for row, by in zip(rows, factors, strict=True)
    )


def rows_of(bank: Bank, vectors: Sequence[int] | None) -> list[int]:
    """Rows of the bank, all of them unless some are asked for.

    Raises:
        SettingError: one that is not there, or twice, or none.
    """
    rows = list(range(len(bank))) if vectors is None else list(vectors)
    wrong = [row for row in rows if not 0 <= row < len(bank)]
    if wrong or not rows or len(set(rows)) != len(rows):
        raise SettingError(
            f"vectors={rows}: expected different rows from 0 to {len(bank) - 1}, and at least one."
        )
    return rows


def one_prompt(model: HookedModel, prompt: Any) -> TokenBatch:
    """The tokens of one prompt.

    Raises:
        PromptError: several, or an unusable one.
    """
    several = isinstance(prompt, (list, tuple)) and any(isinstance(p, str) for p in prompt)
    if several or isinstance(prompt, (set, frozenset)):
        raise PromptError(
            f"Expected one prompt; got a {type(prompt).__name__} of {len(prompt)}: make one call "
            "for each."
        )
    tokens = prompt if isinstance(prompt, TokenBatch) else tokenize(model, [prompt])
    if len(tokens) != 1:
        raise PromptError(f"Expected one prompt; got {len(tokens)}: make one call for each.")
    return tokens


def rows_per_pass(model: HookedModel, pos: int) -> int:
    """So that streams and log-probabilities (three copies) stay within a gigabyte."""
    cfg = model.cfg
    row = 4 * pos * (int(cfg.n_layers + 1) * int(cfg.d_model) + 4 * int(cfg.d_vocab))
    return int(_MEMORY // row) - 1


def patterns_kept(model: HookedModel, heads: int | str, n: int, pos: int) -> int:
    """How many heads' patterns are kept of each of n vectors.

    Raises:
        SettingError: all of them, where those would not fit into a gigabyte.
    """
    if not isinstance(heads, str):
        return heads
    every = int(model.cfg.n_layers) * int(model.cfg.n_heads)
    took = n * every * 2 * pos * pos * 2  # unsteered and steered, in half precision
    if took > _MEMORY:
        raise SettingError(
            f"heads='all' keeps {every} heads' attention of {n} vectors on {pos} tokens, which "
            f"takes {took / _MEMORY:.1f} GiB; expected at most 1. Inspect fewer vectors, or give a "
            "number of heads: those that change most are kept then, and where the last token looks "
            "is kept of all."
        )
    return every
