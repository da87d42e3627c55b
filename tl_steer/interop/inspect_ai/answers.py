"""Answers of a steered model to tokenized prompts, with what an evaluation asks of each."""

import bisect
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from tl_steer.errors import SettingError
from tl_steer.models.hooks import perturbing
from tl_steer.models.model import HookedModel, context_of
from tl_steer.models.padded import left_padded, takes_padding
from tl_steer.models.rows import Row, before_end, by_row, continued, ends_of
from tl_steer.models.state import frozen, seeded
from tl_steer.models.token_names import token_names
from tl_steer.models.tokens import TokenBatch, decode, refuse_beyond_context, tokenize
from tl_steer.perturbations.perturbation import Perturbation

_ROWS = 64
# Tokens until stop sequences are looked for again.
_STRIDE = 32
# Logits that are in memory at a time.
_LOGITS = 1 << 27

Ids: TypeAlias = Int[Tensor, " _"]
# As Inspect calls them; "model_length": the context ended first.
Stop: TypeAlias = Literal["stop", "max_tokens", "model_length"]


@dataclass(frozen=True)
class Sampling:
    """How answers are generated; prompts that are asked alike share batches.

    Attributes:
        most: new tokens at most.
        temperature: `None` decodes greedily.
        seed: for sampling; `None` draws one. What a prompt gets by it depends on its batch.
        stops: texts that end an answer; they are no part of it.
        likeliest: how many alternatives to report beside each token's log-probability; `None`
            reports none.
    """

    most: int
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()
    likeliest: int | None = None

    def __post_init__(self) -> None:
        restricts = self.top_k is not None or self.top_p is not None
        if self.temperature is None and restricts:
            raise SettingError("top_k and top_p restrict sampling: give a temperature as well.")
        if self.most < 1 or (self.temperature is not None and not self.temperature > 0):
            raise SettingError(
                f"max_tokens={self.most}, temperature={self.temperature}: expected at least 1, and "
                "a temperature above 0, or 0 or none for greedy."
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """Of TransformerLens's `generate`."""
        if self.temperature is None:
            return {}
        told = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return {"do_sample": True} | told


@dataclass(frozen=True)
class Told:
    """A token, its log-probability in nats, and the likeliest tokens in its place with theirs."""

    token: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Answer:
    """What was said to one prompt.

    Attributes:
        text: without special tokens and without the stop sequence.
        prompt, ids: token ids of the prompt and of the answer, a token that ended it included.
        stop: why it ended.
        told: log-probabilities of `ids`, where they were asked for.
    """

    text: str
    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    stop: Stop
    told: tuple[Told, ...] | None = None


def answers(
    model: HookedModel, edit: Perturbation, prompts: Sequence[Ids], how: Sampling
) -> list[Answer]:
    """Continue tokenized prompts under one edit, as many as fit into a batch at a time.

    Where the model cannot be trusted with padding, prompts of one length share a batch. Greedily
    each gets what it would get alone, up to rounding.

    Raises:
        PromptError: a prompt that leaves no room in the model's context.
    """
    tokens = tokenize(model, list(prompts))
    refuse_beyond_context(model, tokens, 1, knob="max_tokens")
    longest = max(tokens.lengths.tolist())
    padded = how.most <= _room(model, longest, how) and takes_padding(model)
    seed = secrets.randbits(62) if how.seed is None else how.seed
    with frozen(model), torch.no_grad(), seeded(model, seed):
        found = (_padded if padded else _by_length)(model, edit, tokens, how)
        if how.likeliest is None:
            return found
        return _with_logprobs(model, edit, tokens, found, how.likeliest)


def _room(model: HookedModel, length: int, how: Sampling) -> int:
    """New tokens that the context has room for."""
    return (context_of(model) or length + how.most) - length


def _by_length(
    model: HookedModel, edit: Perturbation, tokens: TokenBatch, how: Sampling
) -> list[Answer]:
    def work(ids: Tensor, rows: list[Row]) -> list[Answer]:
        room = _room(model, ids.shape[1], how)
        new = _continued(model, ids, None, min(how.most, room), how)
        full: Stop = "max_tokens" if how.most <= room else "model_length"
        return [_answer(model, *pair, how, full) for pair in zip(ids, new, strict=True)]

    done = by_row(model, edit, tokens, work, batch_rows=_ROWS)
    return [done[Row(0, p)] for p in range(len(tokens))]


def _padded(
    model: HookedModel, edit: Perturbation, tokens: TokenBatch, how: Sampling
) -> list[Answer]:
    found: dict[int, Answer] = {}
    lengths = tokens.lengths.tolist()
    order = sorted(range(len(tokens)), key=lengths.__getitem__)  # little padding in each batch
    for start in range(0, len(order), _ROWS):
        members = order[start : start + _ROWS]
        own = tokens.take(members)
        ids, mask = left_padded(own)
        rows = torch.zeros(len(own), dtype=torch.long, device="cpu")
        told = None if edit.positions.everywhere else own  # nothing has to be found then
        with perturbing(model, edit.to(ids.device), rows=rows, tokens=told):
            new = _continued(model, ids, mask, how.most, how)
        for p, prompt, said in zip(members, own.rows(), new, strict=True):
            found[p] = _answer(model, prompt, said, how, "max_tokens")
    return [found[p] for p in range(len(tokens))]


def _continued(
    model: HookedModel,
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"] | None,
    n: int,
    how: Sampling,
) -> Int[Tensor, "batch new"]:
    """New tokens; where texts stop answers, until every row holds one."""
    new = ids[:, :0]
    while new.shape[1] < n:
        step = min(_STRIDE if how.stops else n, n - new.shape[1])
        told = how.arguments
        if mask is not None:
            told |= {"attention_mask": torch.cat([mask, torch.ones_like(new)], dim=1)}
        more = continued(model, torch.cat([ids, new], dim=1), step, **told)
        new = torch.cat([new, more], dim=1)
        if more.shape[1] < step or all(_over(model, row, how.stops) for row in new):
            break
    return new


def _over(model: HookedModel, new: Ids, stops: Sequence[str]) -> bool:
    said = new[: before_end(new, ends_of(model))]
    return len(said) < len(new) or _holds(decode(model, said, special=False), stops)


def _holds(text: str, stops: Sequence[str]) -> bool:
    return any(stop in text for stop in stops)


def _answer(model: HookedModel, prompt: Ids, new: Ids, how: Sampling, full: Stop) -> Answer:
    length = before_end(new, ends_of(model))
    kept = new[: length + 1]
    stop: Stop = "stop" if length < len(new) else full
    text = decode(model, new[:length], special=False)
    if _holds(text, how.stops):
        # The fewest tokens that hold one of them.
        length = bisect.bisect_left(
            range(length + 1),
            True,
            key=lambda n: _holds(decode(model, new[:n], special=False), how.stops),
        )
        kept, stop = new[:length], "stop"
        text = text[: min(text.index(each) for each in how.stops if each in text)]
    return Answer(text, tuple(prompt.tolist()), tuple(kept.tolist()), stop)


def _with_logprobs(
    model: HookedModel,
    edit: Perturbation,
    tokens: TokenBatch,
    found: list[Answer],
    likeliest: int,
) -> list[Answer]:
    """The same answers, with the log-probabilities of a whole pass over each."""
    longest = max(len(each.prompt) + len(each.ids) for each in found)
    rows = max(1, min(_ROWS, _LOGITS // (longest * int(model.cfg.d_vocab))))

    def work(ids: Tensor, which: list[Row]) -> list[Answer]:
        own = [found[row.prompt] for row in which]
        said = [torch.tensor(each.ids, dtype=torch.long, device=ids.device) for each in own]
        behind = torch.nn.utils.rnn.pad_sequence(said, batch_first=True)
        read = torch.cat([ids, behind], dim=1)[:, :-1]
        # With a mask, since HookedTransformer may take tokens for padding that are like it.
        logits = model(read, attention_mask=torch.ones_like(read), return_type="logits")
        last = ids.shape[1] - 1
        return [
            _told(model, each, row[last : last + len(each.ids)], likeliest)
            for each, row in zip(own, logits, strict=True)
        ]

    done = by_row(model, edit, tokens, work, batch_rows=rows)
    return [done[Row(0, p)] for p in range(len(found))]


def _told(model: HookedModel, answer: Answer, logits: Tensor, likeliest: int) -> Answer:
    nats = logits.float().log_softmax(dim=-1)
    best = nats.topk(min(likeliest, nats.shape[-1]), dim=-1)
    ids = [list(row) for row in zip(answer.ids, *best.indices.T.tolist(), strict=True)]
    tokenizer = getattr(model, "tokenizer", None)
    names = iter(token_names(tokenizer, [token for row in ids for token in row]))
    told = []
    for row, values, own in zip(ids, best.values.tolist(), nats, strict=True):
        name, *others = (next(names) for _ in row)
        told.append(Told(name, float(own[row[0]]), tuple(zip(others, values, strict=True))))
    return Answer(answer.text, answer.prompt, answer.ids, answer.stop, tuple(told))
