"""Many vectors on many prompts: one batch row for each pair, and no row ever padded.

Left padding changes positions in some versions of TransformerLens and is unmasked in others. So
rows are grouped by prompt length, and a row gives what it gives alone.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.models.hooks import perturbing
from tl_steer.models.model import HookedModel
from tl_steer.models.tokens import TokenBatch
from tl_steer.perturbations.perturbation import Perturbation

Item = TypeVar("Item")


@dataclass(frozen=True)
class Row:
    """One edit on one prompt."""

    vector: int
    prompt: int


def by_row(
    model: HookedModel,
    edits: Perturbation,
    tokens: TokenBatch,
    work: Callable[[Int[Tensor, "batch pos"], list[Row]], Sequence[Item]],
    *,
    batch_rows: int,
) -> dict[Row, Item]:
    """Call `work(ids, rows)` with the model under every edit on every prompt; keep its items by
    row. Edits of zeros stand for the unsteered model, so that one batch holds both."""
    done: dict[Row, Item] = {}
    for rows, ids in _batches(tokens, len(edits), batch_rows):
        which = torch.tensor([row.vector for row in rows], dtype=torch.long, device="cpu")
        own = tokens.take([row.prompt for row in rows])
        with perturbing(model, edits.to(ids.device), rows=which, tokens=own):
            done.update(zip(rows, work(ids, rows), strict=True))
    return done


def _batches(
    tokens: TokenBatch, n: int, most: int
) -> list[tuple[list[Row], Int[Tensor, "batch pos"]]]:
    """All rows, split into batches of one prompt length each."""
    by_length: defaultdict[int, list[Row]] = defaultdict(list)
    for prompt, length in enumerate(tokens.lengths.tolist()):
        by_length[length] += [Row(vector, prompt) for vector in range(n)]
    return [
        (rows[i : i + most], tokens.ids[[r.prompt for r in rows[i : i + most]], :length])
        for length, rows in by_length.items()
        for i in range(0, len(rows), most)
    ]


def continued(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    n: int,
    *,
    cached: bool = True,
    **sampling: Any,
) -> Int[Tensor, "batch new"]:
    """TransformerLens's own generation loop, on tokens; returns the new ones only.

    A row that has ended goes on being filled with the end-of-text token: see `until_end`.
    """
    if not hasattr(model, "generate"):
        raise ModelError(
            f"{type(model).__name__} has no generate(), so nothing can be continued. Use one of "
            "TransformerLens's models, or give yours a generate() like theirs."
        )
    out: Tensor = model.generate(
        ids,
        max_new_tokens=n,
        stop_at_eos=end_of_text(model) is not None,
        use_past_kv_cache=cached,
        return_type="tokens",
        verbose=False,
        **({"do_sample": False} | sampling),
    )
    return out[:, ids.shape[1] :]


def until_end(model: HookedModel, new: Int[Tensor, " new"]) -> Int[Tensor, " kept"]:
    """Cut a row in front of its end-of-text token."""
    end = end_of_text(model)
    stops = [] if end is None else (new == end).nonzero().flatten().tolist()
    return new[: stops[0]] if stops else new


def through_end(model: HookedModel, new: Int[Tensor, " new"]) -> Int[Tensor, " kept"]:
    """Cut a row behind its end-of-text token: to end there was the model's choice too."""
    return new[: len(until_end(model, new)) + 1]


def end_of_text(model: HookedModel) -> int | None:
    found = getattr(getattr(model, "tokenizer", None), "eos_token_id", None)
    return int(found) if found is not None else None
