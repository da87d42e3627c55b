"""Many vectors on many prompts: one batch row for each pair, and no row ever padded.

Left padding changes positions in some versions of TransformerLens and is unmasked in others. So
rows are grouped by prompt length, and a row gives what it gives alone.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tl_steer.errors import PromptError
from tl_steer.files.undo import Scope
from tl_steer.models.hooks import perturbing
from tl_steer.models.model import HookedModel, context_of
from tl_steer.models.state import listen
from tl_steer.models.tokens import TokenBatch
from tl_steer.perturbations.perturbation import Perturbation

Item = TypeVar("Item")
# Called with the ids of all new tokens so far, `[batch new]`.
Heard = Callable[[Tensor], None]


@dataclass(frozen=True)
class Row:
    """One edit on one prompt."""

    vector: int
    prompt: int


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Rows that are run together, and their prompts."""

    rows: list[Row]
    ids: Int[Tensor, "batch pos"]


def by_row(
    model: HookedModel,
    edits: Perturbation,
    tokens: TokenBatch,
    work: Callable[[Int[Tensor, "batch pos"], list[Row]], Sequence[Item]],
    *,
    batch_rows: int,
) -> dict[Row, Item]:
    """Call `work(ids, rows)` with the model under every edit on every prompt; keep its items by
    row. `edits.beside_unsteered()` puts the unsteered model into the same batches."""
    done: dict[Row, Item] = {}
    for batch in row_batches(tokens, len(edits), batch_rows):
        done.update(zip(batch.rows, run_rows(model, edits, tokens, batch, work), strict=True))
    return done


def run_rows(
    model: HookedModel,
    edits: Perturbation,
    tokens: TokenBatch,
    batch: RowBatch,
    work: Callable[[Int[Tensor, "batch pos"], list[Row]], Sequence[Item]],
) -> Sequence[Item]:
    """One batch of `by_row`."""
    which = torch.tensor([row.vector for row in batch.rows], dtype=torch.long, device="cpu")
    everywhere = edits.positions.everywhere  # nothing has to be found then
    own = None if everywhere else tokens.take([row.prompt for row in batch.rows])
    with perturbing(model, edits.to(batch.ids.device), rows=which, tokens=own):
        return work(batch.ids, batch.rows)


def row_batches(tokens: TokenBatch, n: int, most: int) -> list[RowBatch]:
    """All rows, split into batches of one prompt length each."""
    by_length: defaultdict[int, list[Row]] = defaultdict(list)
    for prompt, length in enumerate(tokens.lengths.tolist()):
        by_length[length] += [Row(vector, prompt) for vector in range(n)]
    return [
        RowBatch(rows[i : i + most], tokens.ids[[r.prompt for r in rows[i : i + most]], :length])
        for length, rows in by_length.items()
        for i in range(0, len(rows), most)
    ]


def continued(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    n: int,
    *,
    cached: bool = True,
    heard: Heard | None = None,
    **sampling: Any,
) -> Int[Tensor, "batch new"]:
    """TransformerLens's own generation loop, on tokens; returns the new ones only.

    A row that has ended goes on being filled, with what TransformerLens pads: see `until_end`.

    Args:
        heard: told of new tokens as the model reads them back in, from inside the forward pass, of
            the last one only by a HookedTransformer; an exception out of it ends the generation. It
            hears nothing of a model that has no module `embed`.

    Raises:
        PromptError: the model's context ends before.
    """
    context = context_of(model)
    if context is not None and ids.shape[1] + n - 1 > context:  # the last one is never read
        raise PromptError(
            f"A prompt of {ids.shape[1]} tokens and {n} new ones do not fit into the model's "
            f"context of {context}."
        )
    generate: Any = model.generate  # type: ignore[attr-defined]
    with Scope() as scope:
        if heard is not None:
            _tell(scope, model, heard)
        out: Tensor = generate(
            ids,
            max_new_tokens=n,
            use_past_kv_cache=cached,
            return_type="tokens",
            verbose=False,
            **_stops(model, generate),
            **({"do_sample": False} | sampling),
        )
    # HookedTransformer generates in inference mode; autograd takes no tensor out of that.
    return out[:, ids.shape[1] :].clone()


def _tell(scope: Scope, model: HookedModel, heard: Heard) -> None:
    """Tell of tokens as they are embedded: the first pass is the prompts', every other one begins
    with one new token a row, whether the others are run again or cached."""
    new: list[Tensor] | None = None

    def embedded(_m: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal new
        ids = args[0] if args else next((v for v in kwargs.values() if isinstance(v, Tensor)), None)
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
            return
        if new is None:
            new = []
            return
        new.append(ids[:, -1].detach())
        heard(torch.stack(new, dim=1))

    embed = getattr(model, "embed", None)
    if isinstance(embed, nn.Module):
        listen(scope, embed, embedded, before=True)


def _stops(model: HookedModel, generate: Any) -> dict[str, Any]:
    """When a row has ended, for a `generate` that can be told all of it or knows its tokenizer's
    token; rows are cut later in any case."""
    ends = list(ends_of(model))
    if "eos_token_id" in inspect.signature(generate).parameters and ends:
        return {"stop_at_eos": True, "eos_token_id": ends if len(ends) > 1 else ends[0]}
    return {"stop_at_eos": bool(_ids(getattr(model, "tokenizer", None)))}


def ends_of(model: HookedModel) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's, and those that only a config names, as the
    end of a turn is in many chat models. transformers' own generate stops at the latter."""
    inside = getattr(model, "original_model", None)
    named = (
        getattr(model, "tokenizer", None),
        model.cfg,
        getattr(inside, "config", None),
        getattr(inside, "generation_config", None),
    )
    vocabulary = int(model.cfg.d_vocab)
    found = dict.fromkeys(token for each in named for token in _ids(each))
    return tuple(token for token in found if 0 <= token < vocabulary)


def _ids(holder: Any) -> list[int]:
    found = getattr(holder, "eos_token_id", None)
    found = found.tolist() if isinstance(found, Tensor) else found
    several = found if isinstance(found, (list, tuple)) else [found]
    return [int(token) for token in several if isinstance(token, int)]


def before_end(new: Int[Tensor, " new"], ends: Sequence[int]) -> int:
    """How many tokens stand in front of the first that ends an answer."""
    stops = (
        torch.isin(new.cpu(), torch.tensor(ends, dtype=torch.long, device="cpu"))
        .nonzero()
        .flatten()
        .tolist()
    )
    return int(stops[0]) if stops else len(new)


def until_end(model: HookedModel, new: Int[Tensor, " new"]) -> Int[Tensor, " kept"]:
    """Cut a row in front of the token that ends it."""
    return new[: before_end(new, ends_of(model))]


def through_end(model: HookedModel, new: Int[Tensor, " new"]) -> Int[Tensor, " kept"]:
    """Cut a row behind the token that ends it: to end there was the model's choice too."""
    return new[: before_end(new, ends_of(model)) + 1]
