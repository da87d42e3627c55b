"""Selecting: successive halving over a bank, with the user's own metric.

many vectors, few prompts -> half of them, twice the prompts -> ... -> winners -> held-out prompts
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from tl_steer.banks.bank import Bank
from tl_steer.banks.control import random_bank, unsteered_bank
from tl_steer.banks.generate import generate
from tl_steer.banks.origin import origin_of
from tl_steer.banks.rank import SCORES
from tl_steer.banks.scores import Score
from tl_steer.banks.selection import Round, Selection
from tl_steer.errors import NotFiniteError, PromptError, SettingError
from tl_steer.files.registry import named
from tl_steer.files.signatures import checked
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.model import HookedModel
from tl_steer.models.state import frozen
from tl_steer.models.tokens import Prompts, TokenBatch, refuse_beyond_context, tokenize

Metric = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


@checked
def halve(
    model: HookedModel,
    bank: Bank,
    metric: Metric | str,
    validation: Prompts | TokenBatch,
    *,
    held_out: Prompts | TokenBatch,
    keep: int = 1,
    max_new_tokens: int = 40,
    seed: int = 0,
    batch_rows: int = 64,
) -> Selection:
    """Choose the vectors under which the model scores best, and say how they do on new prompts.

    Every round drops the worse half of the vectors and doubles the prompts, so that most of the
    text is spent on vectors that may win. The last round sees all validation prompts. Afterwards
    the winners, as many random vectors chosen in the same way, and the unsteered model meet the
    held-out prompts.

    Args:
        metric: `metric(prompts, texts)` gives one number per greedy continuation, larger is better.
            Both are strings; the k-th text continues the k-th prompt. A conversation's prompt is
            its last turn. Or the name of a score that needs no label ("switch"), one of
            `banks.SCORES`, which makes what texts it needs by itself.
        validation: prompts to choose by, as for `elicit`; met in an order that `seed` fixes.
        held_out: prompts to report on. None of them may be among the validation prompts.
        keep: how many vectors to end with.
        max_new_tokens: length of the continuations.
        seed: order of the validation prompts, and the random vectors.
        batch_rows: rows per batch; lower it if memory runs out.

    Raises:
        ForeignModelError: the bank was made for another model.
        PromptError: a prompt is both for validation and held out.
        SettingError: bad arguments, or a metric that gives another number of values than texts.
        NotFiniteError: the metric gave NaN or infinity.

    Source: successive halving (Jamieson and Talwalkar, 2016, arXiv:1502.07943). Not for a metric
    whose average over a few prompts is mostly noise: the first round would drop winners by chance.
    """
    if not 1 <= keep <= len(bank) or max_new_tokens < 1 or batch_rows < 1:
        raise SettingError(
            f"keep={keep}, max_new_tokens={max_new_tokens}, batch_rows={batch_rows}: expected at "
            f"least 1 of each, and keep at most the {len(bank)} vectors."
        )
    if isinstance(metric, str):
        named(SCORES, metric, what="score")
    origin = origin_of(model, bank)
    known, new = tokenize(model, validation), tokenize(model, held_out)
    _refuse_overlap(known, new)
    refuse_no_text(model)
    for tokens in (known, new):
        refuse_beyond_context(model, tokens, max_new_tokens)
    order = torch.randperm(
        len(known), generator=torch.Generator().manual_seed(seed), device="cpu"
    ).tolist()
    trial = _Trial(model, metric, max_new_tokens, batch_rows)
    chosen, random = (
        _compete(_Scores(trial, vectors, known.take(order)), keep)
        for vectors in (bank, random_bank(bank, seed=seed))
    )
    there, bare = trial(bank[list(chosen.winners)], new)
    random_there, _ = trial(random.bank[list(random.winners)], new)
    return Selection(
        winners=chosen.winners,
        validation=chosen.means,
        held_out=tuple(map(_mean, there)),
        rounds=chosen.rounds,
        random_validation=random.means,
        random_held_out=tuple(map(_mean, random_there)),
        unsteered_validation=_mean(chosen.unsteered),
        unsteered_held_out=_mean(bare),
        labels=tuple(bank.labels[i] for i in chosen.winners),
        numbers=tuple(bank.numbers[i] for i in chosen.winners),
        settings={
            "keep": keep,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "vectors": len(bank),
            "validation": len(known),
            "held_out": len(new),
            **({"metric": metric} if isinstance(metric, str) else {}),
        },
        origin=origin,
    )


def schedule(vectors: int, prompts: int, keep: int) -> list[tuple[int, int]]:
    """How many vectors meet how many prompts, round by round; the last meets all prompts."""
    counts = [vectors]
    while counts[-1] > keep:
        counts.append(max(keep, math.ceil(counts[-1] / 2)))
    return [(count, max(1, prompts >> (len(counts) - 1 - i))) for i, count in enumerate(counts)]


@dataclass(frozen=True)
class _Trial:
    """The metric of every vector on every prompt, and of the unsteered model."""

    model: HookedModel
    metric: Metric | str
    max_new_tokens: int
    batch_rows: int

    def __call__(self, bank: Bank, tokens: TokenBatch) -> tuple[list[list[float]], list[float]]:
        if isinstance(self.metric, str):
            return self._scored(SCORES[self.metric], bank, tokens)
        texts = generate(
            self.model,
            bank,
            tokens,
            max_new_tokens=self.max_new_tokens,
            batch_rows=self.batch_rows,
        )
        judge = self.metric
        values = [_judged(judge, tokens, row) for row in (*texts.texts, texts.unsteered)]
        return values[:-1], values[-1]

    def _scored(
        self, score: Score, bank: Bank, tokens: TokenBatch
    ) -> tuple[list[list[float]], list[float]]:
        """A score is one number for all these prompts: each of them counts for as much."""
        unsteered = unsteered_bank(bank)
        with frozen(self.model), torch.no_grad():
            found = [score(self.model, each, tokens).tolist() for each in (bank, unsteered)]
        values, bare = ([_finite(value) for value in each] for each in found)
        return [[value] * len(tokens) for value in values], bare * len(tokens)


def _judged(metric: Metric, tokens: TokenBatch, texts: Sequence[str]) -> list[float]:
    values = [float(value) for value in metric(tokens.texts, texts)]
    if len(values) != len(texts):
        raise SettingError(
            f"The metric gave {len(values)} numbers for {len(texts)} texts; expected one each."
        )
    return [_finite(value) for value in values]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise NotFiniteError(f"The metric gave {value}; expected finite numbers.")
    return value


@dataclass
class _Scores:
    """Values so far, by vector; prompts met once are not met again."""

    trial: _Trial
    bank: Bank
    tokens: TokenBatch
    values: dict[int, list[float]] = field(default_factory=dict)
    unsteered: list[float] = field(default_factory=list)

    def extend(self, alive: list[int], prompts: int) -> None:
        met = len(self.unsteered)
        if prompts <= met:
            return
        fresh = self.tokens.take(range(met, prompts))
        found, bare = self.trial(self.bank[alive], fresh)
        self.unsteered += bare
        for vector, values in zip(alive, found, strict=True):
            self.values[vector] = self.values.get(vector, []) + values


@dataclass(frozen=True)
class _Outcome:
    bank: Bank
    winners: tuple[int, ...]
    means: tuple[float, ...]
    rounds: tuple[Round, ...]
    unsteered: list[float]


def _compete(scores: _Scores, keep: int) -> _Outcome:
    alive = list(range(len(scores.bank)))
    plan = schedule(len(alive), len(scores.tokens), keep)
    rounds = []
    for i, (count, prompts) in enumerate(plan):
        scores.extend(alive, prompts)
        # Ties keep the bank's order.
        alive.sort(key=lambda vector: -_mean(scores.values[vector]))
        best = _mean(scores.values[alive[0]])
        alive = sorted(alive[: plan[i + 1][0]]) if i + 1 < len(plan) else alive[:keep]
        rounds.append(Round(count, prompts, best, tuple(alive)))
    means = tuple(_mean(scores.values[vector]) for vector in alive)
    return _Outcome(scores.bank, tuple(alive), means, tuple(rounds), scores.unsteered)


def _refuse_overlap(validation: TokenBatch, held_out: TokenBatch) -> None:
    known = {tuple(row.tolist()) for row in validation.rows()}
    both = [i for i, row in enumerate(held_out.rows()) if tuple(row.tolist()) in known]
    if both:
        raise PromptError(
            f"Held-out prompt {both[0]} ({held_out.texts[both[0]][:40]!r}) is a validation prompt "
            "too. A score on prompts that the vectors were chosen by says nothing about new ones: "
            "split them."
        )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
