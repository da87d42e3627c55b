"""Scores of vectors by what they do at the target and to the token behind a prompt.

Each is a `Score`: `(model, bank, tokens) -> [vec]`, larger means "look at this first". `rank` says
how they are used.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.errors import SettingError
from tl_steer.models.model import HookedModel
from tl_steer.models.rows import Row, by_row
from tl_steer.models.segment import Segment
from tl_steer.models.token_names import token_names
from tl_steer.models.tokens import TokenBatch
from tl_steer.objectives.divergence import mean_response
from tl_steer.objectives.objective import edits_per_pass
from tl_steer.objectives.output_kl import divergence_from, next_token
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import cosines

Score = Callable[[HookedModel, Bank, TokenBatch], Float[Tensor, " vec"]]
"""`(model, bank, tokens) -> [vec]`: what `rank` orders by; larger comes first."""

_BATCH_ROWS = 64


def response_norm(model: HookedModel, bank: Bank, tokens: TokenBatch) -> Float[Tensor, " vec"]:
    """Norm of the mean change at the bank's target, over the tokens that the bank measured."""
    norms: Tensor = _responses(model, bank, tokens).norm(dim=1)
    return norms


def novelty(model: HookedModel, bank: Bank, tokens: TokenBatch) -> Float[Tensor, " vec"]:
    """1 - max |cosine| of a vector's response with that of any other vector; 1 in a bank of one.

    Against *all* others, so the order of the bank does not matter, and both of two twins get 0: to
    keep one of them, use `bank.distinct()`.
    """
    similar: Tensor = cosines(_responses(model, bank, tokens).double()).abs()
    similar.fill_diagonal_(0.0)
    return (1 - similar.amax(dim=1)).clamp(0.0, 1.0).float()


def next_token_kl(model: HookedModel, bank: Bank, tokens: TokenBatch) -> Float[Tensor, " vec"]:
    """KL(steered || unsteered) of the token after the prompt, in nats; the mean over prompts."""
    base = _unsteered(model, tokens)
    return _over_prompts(model, bank, tokens, lambda p, steered: divergence_from(base[p], steered))


@dataclass(frozen=True)
class Growth:
    r"""How fast the response grows with the radius: p in $\|\Delta(R)\|^2 \propto R^p$.

    $\Delta$ is the mean change at the target, and p the least-squares slope of
    $\log\|\Delta(R v/\|v\|)\|^2$ against log R over `factors` times the bank's radius (for other
    kinds than vectors, against the strength of the edit). Because the
    norm is *squared*, 2 is a linear response. Above 2 the model amplifies the vector more the
    longer it is; compare with `random_bank`, since p also falls where the model saturates.
    """

    factors: tuple[float | int, ...] = (0.125, 0.25, 0.5, 1.0)

    def __post_init__(self) -> None:
        if len(set(self.factors)) < 2 or not all(0 < f < math.inf for f in self.factors):
            raise SettingError(f"{self}: a slope needs at least two different numbers above 0.")

    def __call__(self, model: HookedModel, bank: Bank, tokens: TokenBatch) -> Float[Tensor, " vec"]:
        segment = Segment(model, tokens, bank.source, bank.target)
        radii = [factor * bank.radius for factor in self.factors]
        edits = bank.perturbation()
        sizes = [
            _respond(segment, bank, edits.scaled(radius / edits.lengths()))
            .double()
            .square()
            .sum(dim=1)
            for radius in radii
        ]
        return _slope(
            torch.tensor(radii, dtype=torch.float32, device="cpu").double().log(),
            torch.stack(sizes).log(),
        ).float()


@dataclass(frozen=True)
class Toward:
    """Mean change of logit(a) - logit(b) behind the prompt, steered minus unsteered.

    Args:
        a, b: single tokens: ids, or strings that the model's tokenizer makes one token of. A
            leading space matters in most vocabularies.

    Logit differences need no normalisation, and say nothing of how probable either token is.
    """

    a: str | int
    b: str | int

    def __call__(self, model: HookedModel, bank: Bank, tokens: TokenBatch) -> Float[Tensor, " vec"]:
        a, b = single_token(model, self.a), single_token(model, self.b)
        if a == b:
            raise SettingError(f"{self}: both are token {a}; expected two different ones.")
        base = _unsteered(model, tokens)

        def moved(prompts: list[int], steered: Tensor) -> Tensor:
            change = steered - base[prompts]
            return change[:, a] - change[:, b]

        return _over_prompts(model, bank, tokens, moved)


def single_token(model: HookedModel, text: str | int) -> int:
    """The id of a token, given as itself or as text.

    Raises:
        SettingError: the text is no token or several, or the id is outside the vocabulary.
    """
    vocabulary = int(model.cfg.d_vocab)
    if isinstance(text, int):
        if not 0 <= text < vocabulary:
            raise SettingError(f"Token {text} is outside the vocabulary of {vocabulary}.")
        return text
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise SettingError(f"This model has no tokenizer to read {text!r} with: give token ids.")
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        pieces = list(token_names(tokenizer, ids))
        raise SettingError(
            f"{text!r} is {len(ids)} tokens in this vocabulary ({pieces}), and a logit belongs to "
            "one. Choose a shorter word, one with or without a leading space, or give a token id."
        )
    return int(ids[0])


def _responses(model: HookedModel, bank: Bank, tokens: TokenBatch) -> Tensor:
    segment = Segment(model, tokens, bank.source, bank.target)
    return _respond(segment, bank, bank.perturbation())


def _respond(segment: Segment, bank: Bank, edits: Perturbation) -> Float[Tensor, "vec d_target"]:
    """Mean responses at the tokens that the bank measured."""
    measured = bank.provenance.measured.measure(segment.mask, segment.tokens.has_bos)
    edits = edits.to(segment.clean.device)
    step = edits_per_pass(segment)
    runs = (segment.run(edits.select(slice(i, i + step))) for i in range(0, len(bank), step))
    return torch.cat([mean_response(run, segment.clean, measured) for run in runs]).cpu()


def _slope(x: Float[Tensor, " radius"], y: Float[Tensor, "radius vec"]) -> Float[Tensor, " vec"]:
    """Least squares, one line per column."""
    centred = x - x.mean()
    return (centred[:, None] * y).sum(dim=0) / centred.square().sum()


def _unsteered(model: HookedModel, tokens: TokenBatch) -> Float[Tensor, "batch vocabulary"]:
    return torch.cat([next_token(model, row[None]) for row in tokens.rows()])


def _over_prompts(
    model: HookedModel,
    bank: Bank,
    tokens: TokenBatch,
    measure: Callable[[list[int], Tensor], Tensor],
) -> Float[Tensor, " vec"]:
    """The mean over prompts of something that depends on the next token's log-probabilities."""

    def work(ids: Tensor, rows: list[Row]) -> list[float]:
        prompts = [row.prompt for row in rows]
        values: list[float] = measure(prompts, next_token(model, ids)).tolist()
        return values

    found = by_row(model, bank.perturbation(), tokens, work, batch_rows=_BATCH_ROWS)
    return torch.tensor(
        [[found[Row(v, p)] for p in range(len(tokens))] for v in range(len(bank))],
        dtype=torch.float32,
        device="cpu",
    ).mean(dim=1)
