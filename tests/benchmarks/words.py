"""What a plain transformers model says to many prompts under many vectors, and its activations.

The same numbers as `monitoring.observe` and `monitoring.spoken_effects` (`case.py` compares them in
every run), several times faster: what all prompts begin with is run once for every
vector, and only last tokens go through the unembedding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from tl_steer.organisms.answers import Tokens, pad_left, shared_beginning


@dataclass(frozen=True)
class Words:
    """Position 0 is a prompt's end, position i its i-th generated token, read back in.

    Attributes:
        activations: by layer.
        ids: one more than was read: the last token was only said.
        mask: false from the end-of-text token on.
        nats: mean surprise of a prompt's tokens behind what all prompts begin with.
        sure: log-probability of every token that was said.
    """

    activations: dict[int, Float[Tensor, "vec prompt pos d"]]
    ids: Int[Tensor, "vec prompt more"]
    mask: Bool[Tensor, "vec prompt more"]
    nats: Float[Tensor, "vec prompt"]
    sure: Float[Tensor, "vec prompt steps"]

    def text(self, tokenizer: Any, vector: int, prompt: int) -> str:
        ids, mask = self.ids[vector, prompt, 1:], self.mask[vector, prompt, 1:]
        return str(tokenizer.decode(ids[mask]))


def words(
    model: Any,
    rows: Sequence[Tokens],
    vectors: Float[Tensor, "vec d"] | None,
    *,
    source: int,
    layers: Sequence[int],
    steps: int,
    end: int,
    batch: int | None = None,
) -> Words:
    """Greedy answers of `steps` tokens and what is read there; without vectors, of the model as it
    is, as if that were one vector."""
    vectors = None if vectors is None else vectors.to(model.device)
    n = 1 if vectors is None else len(vectors)
    shared = shared_beginning(rows)
    batch = batch or (96 if model.device.type == "cpu" else 1024)
    per = max(1, batch // len(rows)) if vectors is not None else 1
    parts = []
    with torch.no_grad(), _listening(model, layers) as heard, _adding(model, source) as added:
        for start in range(0, n, per):
            own = None if vectors is None else vectors[start : start + per]
            few = 1 if own is None else len(own)
            parts.append(_batch(model, rows, own, few, shared, steps, end, heard, added))
    return Words(
        {layer: torch.cat([p.activations[layer] for p in parts]) for layer in layers},
        torch.cat([p.ids for p in parts]),
        torch.cat([p.mask for p in parts]),
        torch.cat([p.nats for p in parts]),
        torch.cat([p.sure for p in parts]),
    )


def _batch(
    model: Any,
    rows: Sequence[Tokens],
    vectors: Tensor | None,
    n: int,
    shared: int,
    steps: int,
    end: int,
    heard: dict[int, Tensor],
    added: list[Tensor | None],
) -> Words:
    cache = DynamicCache()
    added[0] = None if vectors is None else vectors[:, None]
    first = torch.tensor([rows[0][:shared]] * n, device=model.device)
    model.model(first, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(rows))
    if vectors is not None:
        added[0] = vectors.repeat_interleave(len(rows), dim=0)[:, None]
    tail, inside = pad_left([row[shared:] for row in rows], end)
    ids, inside = tail.repeat(n, 1).to(model.device), inside.repeat(n, 1).to(model.device)
    mask = torch.cat([inside.new_ones(len(inside), shared), inside], dim=1)
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    said, seen, nats = [ids[:, -1:]], [], torch.zeros(len(ids), device=model.device)
    sure: list[Tensor] = []
    for step in range(steps):
        state = model.model(
            ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        )
        if step == 0 and vectors is None:
            nats = _surprise(model, state.last_hidden_state, ids, mask[:, shared:].bool())
        seen.append(dict(heard))
        logits = model.lm_head(state.last_hidden_state[:, -1:])
        best, ids = logits.max(dim=-1)
        sure.append(best - logits.logsumexp(dim=-1))
        said.append(ids)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        places = places[:, -1:] + 1
    every = torch.cat(said, dim=1).unflatten(0, (n, len(rows)))
    alive = ((every == end).cumsum(dim=2) - (every[..., :1] == end).long()) == 0
    found = {
        layer: torch.stack([at[layer] for at in seen], dim=1).unflatten(0, (n, len(rows))).cpu()
        for layer in heard
    }
    told = (torch.cat(sure, dim=1), nats)
    certain, surprise = (each.unflatten(0, (n, len(rows))).cpu() for each in told)
    return Words(found, every.cpu(), alive.cpu(), surprise, certain)


def _surprise(model: Any, hidden: Tensor, ids: Tensor, inside: Tensor) -> Float[Tensor, " row"]:
    wanted = inside[:, :-1]
    logits = model.lm_head(hidden[:, :-1][wanted])
    each = torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted], reduction="none")
    rows = wanted.nonzero()[:, 0]
    return torch.zeros(len(ids), device=ids.device).index_add(0, rows, each) / wanted.sum(dim=1)


@contextmanager
def _listening(model: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """What each of some blocks put out at the last position of the last call."""
    heard: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, out: Any) -> None:
            heard[layer] = (out[0] if isinstance(out, tuple) else out)[:, -1].clone()

        return hook

    handles = [model.model.layers[i].register_forward_hook(keep(i)) for i in layers]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _adding(model: Any, layer: int) -> Iterator[list[Tensor | None]]:
    """Whatever is put into the list is added behind a block."""
    added: list[Tensor | None] = [None]

    def hook(_module: Any, _inputs: Any, out: Any) -> Any:
        if added[0] is None:
            return out
        return (out[0] + added[0], *out[1:]) if isinstance(out, tuple) else out + added[0]

    handle = model.model.layers[layer].register_forward_hook(hook)
    try:
        yield added
    finally:
        handle.remove()
