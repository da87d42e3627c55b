"""Prompts to tokens. Padding, BOS and chat templates are settled here and nowhere else.

Every prompt is tokenized alone, by TransformerLens's own rules, and padded on the right. Causal
attention then keeps padding away from real tokens, so a prompt in a batch gets what it would get
alone; and the
mask comes from lengths, because a pad id may be a real token (SmolLM2 pads with its end-of-turn).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.errors import PromptError
from tl_steer.files.signatures import checked
from tl_steer.hook_points.positions import Positions
from tl_steer.models.model import HookedModel, context_of, device_of
from tl_steer.models.prompt_list import is_ids, listed
from tl_steer.models.prompt_row import chat_row, special_id, templated, text_row, words_of

Prompts: TypeAlias = Any
"""A sequence of strings, conversations (`chat`) or rows of token ids, or a matrix of ids."""


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

    def edited(
        self, positions: Positions
    ) -> Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"]:
        """The same; as strengths, where not all are edited as strongly."""
        return positions.along(self.mask, torch.zeros_like(self.mask), self.has_bos)


@checked
def chat(text: str, *, system: str | None = None) -> list[dict[str, str]]:
    """A conversation of one user turn, for any place that takes prompts.

    It is rendered with the tokenizer's chat template, up to where the assistant's answer begins.

    Raises:
        ShapeError: no strings.
    """
    turns = [{"role": "system", "content": system}] if system is not None else []
    return [*turns, {"role": "user", "content": text}]


def chats(model: Any, prompts: Sequence[str], *, raw: bool) -> list[Any]:
    """Texts as users' messages, unless they are to be read as they are (`raw`), or the model has no
    chat template."""
    return list(prompts) if raw or not templated(model) else [chat(each) for each in prompts]


@checked
def tokenize(model: HookedModel, prompts: Prompts | TokenBatch) -> TokenBatch:
    """Tokenize as TransformerLens would, prompt by prompt, and nothing cut off.

    Args:
        prompts: strings (with BOS as `model.to_tokens` gives it, never twice), conversations (lists
            of `{"role", "content"}`, see `chat`) or rows of token ids (1-D tensors, lists of
            numbers), which are left as they are; or one 2-D tensor of ids, of which every row is
            one prompt, whole: padding in it would be read as tokens.

    Raises:
        PromptError: no prompts, one that is empty, is longer than the model's context or has ids
            that are not in its vocabulary; a conversation that the chat template does not take.
    """
    if isinstance(prompts, TokenBatch):
        return _fitting(model, prompts)
    prompts = listed(prompts)
    rows = [_row(model, prompt, i) for i, prompt in enumerate(prompts)]
    return _pad(model, rows, [_readable(model, p, r) for p, r in zip(prompts, rows, strict=True)])


def whole(model: HookedModel, prompt: Any) -> TokenBatch:
    """One prompt's tokens, however many: for those who cut it themselves.

    Raises:
        PromptError: as `tokenize`, but for the length.
    """
    row = whole_row(model, prompt, 0)
    return _pad(model, [row], [_readable(model, prompt, row)])


def whole_row(model: HookedModel, prompt: Any, index: int = 0) -> Int[Tensor, " pos"]:
    """The ids of `whole`; `index` is the prompt's place, for errors."""
    try:
        row = _tokens_of(model, prompt)
    except PromptError as error:
        raise PromptError(f"Prompt {index} {error}") from error
    if row.ndim != 1 or len(row) == 0 or not _whole_numbers(row):
        raise PromptError(
            f"Prompt {index} gives token ids of shape {tuple(row.shape)} ({row.dtype}); "
            "expected one row of at least one integer."
        )
    row = row.detach().long().cpu()
    _refuse_ids(model, row, index)
    return row


def refuse_beyond_context(
    model: HookedModel, tokens: TokenBatch, new: int, *, knob: str = "max_new_tokens"
) -> None:
    """Refuse prompts behind which `new` tokens do not fit into the model's context.

    Raises:
        PromptError: with the place of the first one, and the numbers.
    """
    context = context_of(model)
    lengths = tokens.lengths.tolist()
    if context is None or max(lengths) + new <= context:
        return
    place = next(i for i, length in enumerate(lengths) if length + new > context)
    room = context - max(lengths)
    raise PromptError(
        f"Prompt {place} is {lengths[place]} tokens long, and with {knob}={new} behind it that is "
        f"more than the model's context of {context}. Shorten the prompt"
        + (f", or set {knob} to at most {room}." if room > 0 else ".")
    )


def _row(model: HookedModel, prompt: Any, index: int) -> Int[Tensor, " pos"]:
    row = whole_row(model, prompt, index)
    context = context_of(model)
    if context is not None and len(row) > context:
        raise PromptError(
            f"Prompt {index} is {len(row)} tokens long, and the model's context (cfg.n_ctx) is "
            f"{context}. Shorten it: nothing is cut off in silence."
        )
    return row


def _tokens_of(model: HookedModel, prompt: Any) -> Tensor:
    if isinstance(prompt, Tensor):
        return prompt
    if isinstance(prompt, str):
        return text_row(model, prompt)
    if isinstance(prompt, np.ndarray) or is_ids(prompt):
        return torch.as_tensor(np.asarray(prompt), device="cpu")
    if isinstance(prompt, Sequence) and all(isinstance(turn, Mapping) for turn in prompt):
        return chat_row(model, prompt)
    raise PromptError(
        f"is a {type(prompt).__name__}; expected a string, a conversation (a list of "
        "{'role', 'content'}) or a row of token ids."
    )


def _whole_numbers(row: Tensor) -> bool:
    return not (row.is_floating_point() or row.is_complex() or row.dtype == torch.bool)


def _refuse_ids(model: HookedModel, row: Tensor, index: int) -> None:
    # Here, since on a GPU such an id ends the process.
    vocabulary = int(model.cfg.d_vocab)
    wrong = row[(row < 0) | (row >= vocabulary)]
    if len(wrong):
        raise PromptError(
            f"Prompt {index} has the token id {int(wrong[0])}; this model's vocabulary has ids "
            f"from 0 to {vocabulary - 1}. Was it tokenized for another model?"
        )


def _fitting(model: HookedModel, tokens: TokenBatch) -> TokenBatch:
    """A batch that was made before, perhaps for another model."""
    if len(tokens) == 0:
        raise PromptError("No prompts were given; expected at least one.")
    at = torch.arange(tokens.ids.shape[1], device=tokens.mask.device)
    lengths = tokens.lengths
    if int(lengths.min()) == 0 or not torch.equal(tokens.mask, at < lengths[:, None]):
        raise PromptError(
            "This TokenBatch has an empty prompt, or is not padded on the right as tokenize() does."
        )
    for index, row in enumerate(tokens.rows()):
        _row(model, row, index)
    device = device_of(model)
    if tokens.ids.device == device:
        return tokens
    return TokenBatch(
        tokens.ids.to(device), tokens.mask.to(device), tokens.has_bos.to(device), tokens.texts
    )


def _pad(model: HookedModel, rows: list[Tensor], texts: list[str]) -> TokenBatch:
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long, device="cpu")
    filler = special_id(model, "pad_token_id") or 0
    if filler >= int(model.cfg.d_vocab):  # a pad token that was added to the tokenizer alone
        filler = 0
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler)
    mask = torch.arange(ids.shape[1], device="cpu") < lengths[:, None]
    bos = special_id(model, "bos_token_id")
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
    ids = isinstance(prompt, (Tensor, np.ndarray)) or is_ids(prompt)
    return decode(model, row) if ids else words_of(prompt[-1])


def decode(model: HookedModel, row: Int[Tensor, " pos"], *, special: bool = True) -> str:
    """Token ids as text; without a tokenizer, the ids themselves."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return " ".join(str(int(token)) for token in row)
    return str(tokenizer.decode(row.tolist(), skip_special_tokens=not special))
