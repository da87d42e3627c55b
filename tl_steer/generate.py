"""Steered generation: many vectors in one batch, each row its own vector.

Rows are grouped by prompt length, so that no row is ever padded: left padding changes positions in
some versions of TransformerLens and is unmasked in others, and a row must give what it gives alone.
"""

import dataclasses
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tl_steer.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.hooks import perturbing
from tl_steer.model import HookedModel, check_fits, device_of, frozen
from tl_steer.results import Generations
from tl_steer.shapes import checked
from tl_steer.tokens import Prompts, TokenBatch, decode, tokenize


@dataclass(frozen=True)
class _Row:
    """One continuation to make; vector -1 is the unsteered one."""

    vector: int
    prompt: int


@checked
def generate(
    model: HookedModel,
    bank: Bank,
    prompts: Prompts | TokenBatch,
    *,
    max_new_tokens: int = 40,
    temperature: float | int | None = None,
    top_k: int | None = None,
    top_p: float | int | None = None,
    seed: int = 0,
    use_past_kv_cache: bool = True,
    batch_rows: int = 64,
) -> Generations:
    """Continue every prompt under every vector of the bank, and once without any.

    Args:
        prompts: as for `elicit`.
        max_new_tokens: where to stop; a row also stops at the tokenizer's end-of-text token.
        temperature: `None` decodes greedily; a number samples.
        top_k, top_p: restrict sampling; only with a temperature.
        seed: for sampling. The global random state is left as it was.
        use_past_kv_cache: leave it on, but for tests.
        batch_rows: rows per batch; lower it if memory runs out. Greedy rows do not depend on it.

    Raises:
        ForeignModelError: the bank was made for another model.
        PromptError, SettingError: bad arguments, before any work.
    """
    _refuse_settings(max_new_tokens, temperature, top_k, top_p, batch_rows)
    check_fits(model, bank)
    tokens = tokenize(model, prompts)
    sampling: dict[str, Any] = {"do_sample": temperature is not None}
    if temperature is not None:
        sampling |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    done: dict[_Row, str] = {}
    devices = [device_of(model)] if device_of(model).type == "cuda" else []
    with frozen(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for rows, ids in _batches(tokens, len(bank), batch_rows):
            # A row of zeros stands for "unsteered", so one batch holds both.
            vectors = torch.cat([bank.vectors, torch.zeros_like(bank.vectors[:1])])
            edits = dataclasses.replace(bank[[0] * len(vectors)], vectors=vectors).perturbation()
            with perturbing(
                model,
                edits.to(ids.device),
                rows=torch.tensor([row.vector % len(vectors) for row in rows]),
                tokens=_batch_of(tokens, rows),
            ):
                out = _continue(model, ids, max_new_tokens, sampling, use_past_kv_cache)
            done |= {
                row: decode(model, _until_end(model, new), special=False)
                for row, new in zip(rows, out, strict=True)
            }
    return Generations(
        prompts=tokens.texts,
        unsteered=tuple(done[_Row(-1, p)] for p in range(len(tokens))),
        texts=tuple(tuple(done[_Row(v, p)] for p in range(len(tokens))) for v in range(len(bank))),
        labels=bank.labels,
        settings={"max_new_tokens": max_new_tokens, "seed": seed, **sampling},
    )


def _batches(
    tokens: TokenBatch, n: int, most: int
) -> list[tuple[list[_Row], Int[Tensor, "batch pos"]]]:
    """All rows, split into batches of one prompt length each."""
    by_length: defaultdict[int, list[_Row]] = defaultdict(list)
    for prompt, length in enumerate(tokens.lengths.tolist()):
        by_length[length] += [_Row(vector, prompt) for vector in (-1, *range(n))]
    return [
        (rows[i : i + most], tokens.ids[[r.prompt for r in rows[i : i + most]], :length])
        for length, rows in by_length.items()
        for i in range(0, len(rows), most)
    ]


def _batch_of(tokens: TokenBatch, rows: list[_Row]) -> TokenBatch:
    chosen = [row.prompt for row in rows]
    length = int(tokens.lengths[chosen[0]])
    return TokenBatch(
        tokens.ids[chosen, :length],
        tokens.mask[chosen, :length],
        tokens.has_bos[chosen],
        tuple(tokens.texts[p] for p in chosen),
    )


def _continue(
    model: HookedModel, ids: Tensor, n: int, sampling: dict[str, Any], cached: bool
) -> Tensor:
    """TransformerLens's own generation loop, on tokens; returns the new ones only."""
    ends = getattr(getattr(model, "tokenizer", None), "eos_token_id", None)
    out = model.generate(  # type: ignore[attr-defined]
        ids,
        max_new_tokens=n,
        stop_at_eos=ends is not None,
        use_past_kv_cache=cached,
        return_type="tokens",
        verbose=False,
        **sampling,
    )
    return out[:, ids.shape[1] :]  # type: ignore[no-any-return]


def _until_end(model: HookedModel, new: Tensor) -> Tensor:
    """Cut a row at its end-of-text token: finished rows go on being filled with it."""
    end = getattr(getattr(model, "tokenizer", None), "eos_token_id", None)
    stops = (new == end).nonzero() if end is not None else []
    return new[: int(stops[0])] if len(stops) else new


def _refuse_settings(
    n: int, temperature: float | int | None, top_k: int | None, top_p: float | int | None, rows: int
) -> None:
    if n < 1 or rows < 1:
        raise SettingError(f"max_new_tokens={n}, batch_rows={rows}: expected at least 1 of each.")
    if temperature is not None and not temperature > 0:
        raise SettingError(f"temperature={temperature}: expected above 0, or None for greedy.")
    if temperature is None and (top_k is not None or top_p is not None):
        raise SettingError("top_k and top_p restrict sampling: give a temperature as well.")
