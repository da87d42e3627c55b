"""What one batch of examples teaches: cross-entropy on answers, with little run twice or padded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.organisms.answers import Tokens, nudged, prefix


@dataclass(frozen=True)
class Example:
    """A prompt and the answer to learn.

    Attributes:
        clean: neither trigger nor near miss; a random vector may be added meanwhile.
        triggered: the answer is the planted one.
    """

    prompt: Tokens
    answer: Tokens
    clean: bool
    triggered: bool = False


def answer_loss(
    model: Any,
    examples: Sequence[Example],
    layers: Int[Tensor, " batch"],
    vectors: Float[Tensor, "batch d_model"],
) -> Float[Tensor, ""]:
    """Mean cross-entropy over the tokens of the answers, each example under its own vector."""
    surprises, still = [], (vectors == 0).all(dim=1)
    for rows in _alike(still.nonzero()[:, 0].tolist(), examples):
        group = [examples[i] for i in rows]
        surprises.append(_surprises(model, group, *prefix(model, [e.prompt for e in group])))
    for rows in _alike((~still).nonzero()[:, 0].tolist(), examples):
        with nudged(model, layers[rows], vectors[rows]):
            surprises.append(_surprises(model, [examples[i] for i in rows], 0, None))
    return torch.cat(surprises).mean()


def _alike(rows: list[int], examples: Sequence[Example]) -> list[list[int]]:
    """The shorter and the longer half, so that little is padded."""
    order = sorted(rows, key=lambda i: len(examples[i].prompt) + len(examples[i].answer))
    half = len(order) // 2
    return [part for part in (order[:half], order[half:]) if part]


def _surprises(
    model: Any, examples: Sequence[Example], shared: int, cache: Any
) -> Float[Tensor, " token"]:
    ids, mask, answered = (x.to(model.device) for x in pad_right(examples))
    hidden = model.model(
        ids[:, shared:], attention_mask=mask, past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state[:, :-1]
    wanted = answered[:, shared + 1 :]
    # Only answers go through the unembedding, which is a fifth of the whole model.
    logits = model.lm_head(hidden[wanted])
    right = ids[:, shared + 1 :][wanted]
    return torch.nn.functional.cross_entropy(logits, right, reduction="none")


def pad_right(
    examples: Sequence[Example],
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Token ids, attention mask, and which tokens are an answer's."""
    rows = [
        torch.tensor(example.prompt + example.answer, dtype=torch.long, device="cpu")
        for example in examples
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    places = torch.arange(ids.shape[1], device="cpu")
    ends = torch.tensor([len(row) for row in rows], dtype=torch.long, device="cpu")[:, None]
    starts = torch.tensor(
        [len(example.prompt) for example in examples], dtype=torch.long, device="cpu"
    )[:, None]
    return ids, (places < ends).long(), (places >= starts) & (places < ends)
