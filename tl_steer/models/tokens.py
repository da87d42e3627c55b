"""Prompts to tokens. Padding, BOS and chat templates are settled here and nowhere else.

Every prompt is tokenized alone, by TransformerLens's own rules, and padded on the right. Causal
attention then keeps padding away from real tokens, so a prompt in a batch gets what it would get
alone; and the
mask comes from lengths, because a pad id may be a real token (SmolLM2 pads with its end-of-turn).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tl_steer.errors import PromptError
from tl_steer.hook_points.positions import Positions
from tl_steer.models.model import HookedModel, device_of

Conversation: TypeAlias = Sequence[Mapping[str, str]]
Prompts: TypeAlias = Sequence[Any]  # strings, conversations or 1-D token tensors


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Right-padded token ids, with what is needed to ignore the padding.

    Attributes:
        ids: token ids; whatever stands at padding is never looked at.
        mask: true at real tokens.
        has_bos: whether a row starts with the tokenizer's BOS token.
        texts: the prompts, for people to read.
    """

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    has_bos: Bool[Tensor, " batch"]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        return self.mask.sum(dim=1)

    def rows(self) -> list[Int[Tensor, " pos"]]:
        """The prompts without padding."""
        return [ids[:length] for ids, length in zip(self.ids, self.lengths.tolist(), strict=True)]

    def take(self, rows: Sequence[int]) -> "TokenBatch":
        """Some of the prompts, in that order and as often, padded no further than they need."""
        chosen = list(rows)
        length = int(self.lengths[chosen].max())
        return TokenBatch(
            self.ids[chosen, :length],
            self.mask[chosen, :length],
            self.has_bos[chosen],
            tuple(self.texts[i] for i in chosen),
        )

    def select(self, positions: Positions) -> Bool[Tensor, "batch pos"]:
        """The tokens that `positions` chooses."""
        return positions.select(self.mask, self.has_bos)


def chat(text: str, *, system: str | None = None) -> list[dict[str, str]]:
    """A conversation of one user turn, for any place that takes prompts.

    It is rendered with the tokenizer's chat template, up to where the assistant's answer begins.
    """
    turns = [{"role": "system", "content": system}] if system is not None else []
    return [*turns, {"role": "user", "content": text}]


def tokenize(model: HookedModel, prompts: Prompts | TokenBatch) -> TokenBatch:
    """Tokenize as TransformerLens would, prompt by prompt.

    Args:
        prompts: strings (with BOS as `model.to_tokens` gives it, never twice), conversations (lists
            of `{"role", "content"}`, see `chat`) or 1-D tensors of token ids, which are left as
            they are.

    Raises:
        PromptError: no prompts, an empty one, or a conversation without a chat template.
    """
    if isinstance(prompts, TokenBatch):
        return prompts
    if isinstance(prompts, str):
        raise PromptError(f"Prompts come as a list: [{prompts[:40]!r}], not a single string.")
    if len(prompts) == 0:
        raise PromptError("No prompts were given; expected at least one.")
    rows = [_row(model, prompt, i) for i, prompt in enumerate(prompts)]
    return _pad(model, rows, [_readable(model, p, r) for p, r in zip(prompts, rows, strict=True)])


def _row(model: HookedModel, prompt: Any, index: int) -> Int[Tensor, " pos"]:
    if isinstance(prompt, Tensor):
        row = prompt
    elif isinstance(prompt, str):
        row = _text_row(model, prompt, index)
    elif isinstance(prompt, Sequence) and all(isinstance(turn, Mapping) for turn in prompt):
        row = _chat_row(model, prompt, index)
    else:
        raise PromptError(
            f"Prompt {index} is a {type(prompt).__name__}; expected a string, a conversation "
            "(a list of {'role', 'content'}) or a 1-D tensor of token ids."
        )
    if row.ndim != 1 or len(row) == 0 or row.is_floating_point():
        raise PromptError(
            f"Prompt {index} gives token ids of shape {tuple(row.shape)} ({row.dtype}); "
            "expected one row of at least one integer."
        )
    return row.long().cpu()


def whole_row(model: HookedModel, text: str) -> Int[Tensor, " pos"]:
    """A text's tokens, also those behind the context's end, where TransformerLens cuts it."""
    return _text_row(model, text, 0, truncate=False)


def _text_row(model: HookedModel, text: str, index: int, **knobs: bool) -> Int[Tensor, " pos"]:
    if not text.strip():
        raise PromptError(f"Prompt {index} is empty; there is nothing to steer or measure.")
    row: Tensor = model.to_tokens(text, **knobs)[0].cpu()
    bos = _special(model, "bos_token_id")
    doubled = len(row) > 1 and bos is not None and int(row[0]) == int(row[1]) == bos
    # to_tokens puts BOS in front even of a rendered chat template that starts with one.
    return row[1:] if doubled else row


def _chat_row(model: HookedModel, turns: Conversation, index: int) -> Int[Tensor, " pos"]:
    tokenizer = getattr(model, "tokenizer", None)
    if not turns or getattr(tokenizer, "chat_template", None) is None:
        raise PromptError(
            f"Prompt {index} is a conversation, but "
            + ("it has no turns." if not turns else "the tokenizer has no chat template: ")
            + ("" if not turns else "pass plain strings to this model.")
        )
    encoded = tokenizer.apply_chat_template(  # type: ignore[union-attr]
        [dict(turn) for turn in turns], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    return torch.tensor(encoded["input_ids"], dtype=torch.long, device="cpu").flatten()


def _pad(model: HookedModel, rows: list[Tensor], texts: list[str]) -> TokenBatch:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long, device="cpu")
    filler = _special(model, "pad_token_id") or 0
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler)
    mask = torch.arange(ids.shape[1], device="cpu") < lengths[:, None]
    bos = _special(model, "bos_token_id")
    has_bos = (
        ids[:, 0] == bos
        if bos is not None
        else torch.zeros(len(rows), dtype=torch.bool, device="cpu")
    )
    device = device_of(model)
    return TokenBatch(ids.to(device), mask.to(device), has_bos.to(device), tuple(texts))


def _readable(model: HookedModel, prompt: Any, row: Tensor) -> str:
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, Tensor):
        return str(prompt[-1].get("content", ""))
    return decode(model, row)


def decode(model: HookedModel, row: Int[Tensor, " pos"], *, special: bool = True) -> str:
    """Token ids as text; without a tokenizer, the ids themselves."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return " ".join(str(int(token)) for token in row)
    return str(tokenizer.decode(row.tolist(), skip_special_tokens=not special))


def _special(model: HookedModel, name: str) -> int | None:
    value = getattr(getattr(model, "tokenizer", None), name, None)
    return int(value) if isinstance(value, int) else None
