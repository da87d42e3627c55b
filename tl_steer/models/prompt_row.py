"""One prompt to one row of token ids: texts by TransformerLens's rules, conversations by the
tokenizer's chat template. Whatever tokenizers and templates raise becomes a `PromptError` that goes
on from "Prompt 3": `tokenize` knows the place.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from tl_steer.errors import PromptError
from tl_steer.files.text import said
from tl_steer.models.model import HookedModel

Conversation: TypeAlias = Sequence[Mapping[str, Any]]


def text_row(model: HookedModel, text: str) -> Int[Tensor, " pos"]:
    """A text's tokens with BOS as `model.to_tokens` gives it, and all of them: by itself
    TransformerLens cuts at the context's end without a word.

    Raises:
        PromptError: it is empty, or cannot be tokenized.
    """
    if not text.strip():
        raise PromptError("is empty; there is nothing to steer or measure.")
    _refuse_surrogates(text)
    whole = {"truncate": False} if "truncate" in _arguments(model.to_tokens) else {}
    try:
        row: Tensor = model.to_tokens(text, **whole)[0].cpu()
    except Exception as error:
        if getattr(model, "tokenizer", None) is None:
            raise PromptError(
                "is text, and this model has no tokenizer: pass tensors of token ids."
            ) from error
        raise PromptError(f"cannot be tokenized ({said(error, most=200)}).") from error
    bos = special_id(model, "bos_token_id")
    doubled = len(row) > 1 and bos is not None and int(row[0]) == int(row[1]) == bos
    # to_tokens puts BOS in front even of a rendered chat template that starts with one.
    return row[1:] if doubled else row


def templated(model: Any) -> bool:
    """Whether the model's tokenizer has a chat template."""
    return getattr(getattr(model, "tokenizer", None), "chat_template", None) is not None


def chat_row(model: HookedModel, turns: Conversation) -> Int[Tensor, " pos"]:
    """A conversation's tokens, up to where the answer begins.

    Raises:
        PromptError: there is no template, or it does not take such a conversation.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    if not turns:
        raise PromptError("is a conversation, but it has no turns.")
    if not templated(model):
        raise PromptError(
            "is a conversation, but the tokenizer has no chat template: pass plain strings to "
            "this model."
        )
    plain = [dict(turn) for turn in turns]
    for number, turn in enumerate(plain):
        _refuse_turn(tokenizer, plain, number, turn)
    ids = _rendered(tokenizer, plain)
    if not ids:
        raise PromptError("is a conversation of which the chat template makes nothing at all.")
    return torch.tensor(ids, dtype=torch.long, device="cpu")


def special_id(model: HookedModel, name: str) -> int | None:
    """The id of the tokenizer's special token of that name."""
    value = getattr(getattr(model, "tokenizer", None), name, None)
    return int(value) if isinstance(value, int) else None


def words_of(turn: Mapping[str, Any]) -> str:
    """What a turn says, for people to read."""
    content = turn.get("content")
    if isinstance(content, (list, tuple)):
        parts = (part.get("text", "") for part in content if isinstance(part, Mapping))
        return " ".join(str(part) for part in parts)
    return "" if content is None else str(content)


def _refuse_turn(
    tokenizer: Any, turns: list[dict[str, Any]], number: int, turn: dict[str, Any]
) -> None:
    """Refuse contents that the template would print as Python has them ("None", "[{'type': ...")
    or leave out: it is asked whether it tells them from that text."""
    for text in _strings(turn):
        _refuse_surrogates(text)
    if not isinstance(turn.get("role"), str):
        raise PromptError(
            f"has no role in turn {number}; expected 'user', 'assistant' or 'system'."
        )
    content = turn.get("content")
    if isinstance(content, str):
        return
    if content is None and not turn.get("tool_calls"):
        raise PromptError(f"has no content in turn {number} ({turn['role']}); expected text.")
    rendered = _rendered(tokenizer, turns)
    for text in ("", "None") if content is None else (str(content),):
        bare = {"role": turn["role"], "content": text}
        if rendered == _rendered(tokenizer, [*turns[:number], bare, *turns[number + 1 :]]):
            raise PromptError(
                f"has content of type {type(content).__name__} in turn {number} ({turn['role']}), "
                "which this chat template does not know, and would leave out or print as Python "
                "does: give its text."
            )


def _rendered(tokenizer: Any, turns: list[dict[str, Any]]) -> list[int]:
    try:
        encoded = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ids = torch.as_tensor(encoded["input_ids"], device="cpu").flatten().tolist()
    except Exception as error:
        raise PromptError(
            f"is a conversation that the chat template does not take ({said(error, most=200)})."
        ) from error
    return [int(token) for token in ids]


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"holds half of a surrogate pair (character {error.start} of {text[:20]!a}), which is "
            "no text: decode it anew where it comes from, or replace that character."
        ) from None


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for part in pair for text in _strings(part)]
    if isinstance(value, (list, tuple)):
        return [text for part in value for text in _strings(part)]
    return []


def _arguments(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
