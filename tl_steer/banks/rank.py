r"""Ranking: numbers that say which vectors of a bank to look at first.

A `Score` is any function `(model, bank, tokens) -> [vec]`; larger means "look at this first". All
scores here are measured on the prompts that you give, not taken from the bank, so they hold for
random banks too: rank those the same way before you believe an order.

    response_norm   |mean change at the target|
    novelty         1 - max |cosine| of its response with any other vector's
    next_token_kl   KL(steered || unsteered) of the token after the prompt, in nats
    growth          how fast the response grows with the radius: 2 is linear (`Growth`)
    switch          whether it says what nothing led to and what then runs by itself (`Switch`)
    flatness        how little what it says depends on the vector's exact direction (`Flatness`)
    Toward("a","b") how far the logits move from token b to token a
"""

from collections.abc import Mapping

import torch

from tl_steer.banks.bank import Bank
from tl_steer.banks.flatness import Flatness
from tl_steer.banks.provenance import check_fits
from tl_steer.banks.scores import Growth, Score, next_token_kl, novelty, response_norm
from tl_steer.banks.switch import Switch
from tl_steer.errors import NotFiniteError, SettingError
from tl_steer.files.describe import name_of
from tl_steer.files.registry import named
from tl_steer.files.signatures import checked
from tl_steer.models.model import HookedModel
from tl_steer.models.state import frozen
from tl_steer.models.tokens import Prompts, TokenBatch, tokenize

SCORES: Mapping[str, Score] = {
    "response_norm": response_norm,
    "novelty": novelty,
    "next_token_kl": next_token_kl,
    "growth": Growth(),
    "switch": Switch(),
    "flatness": Flatness(),
}
"""The scores of vectors that `rank` and `halve` know by name."""


@checked
def rank(
    model: HookedModel,
    bank: Bank,
    prompts: Prompts | TokenBatch,
    *,
    by: str | Score,
    name: str | None = None,
) -> Bank:
    """The bank with one more score, ordered by it, largest first.

    Args:
        prompts: what the score is measured on, as for `elicit`. Prompts other than the bank's own
            tell what holds in general from what is an accident of one prompt.
        by: one of `SCORES` ("novelty", say), or any function of the signature `Score`.
        name: of the score in `bank.scores`; the function's own name unless given.

    Raises:
        ForeignModelError: the bank was made for another model.
        SettingError: an unknown name, or a score that does not give one number per vector.
        NotFiniteError: a score is NaN.

    An order chosen on some prompts flatters its first vector: report its score on others.
    """
    score = named(SCORES, by, what="score") if isinstance(by, str) else by
    check_fits(model, bank.provenance)
    tokens = tokenize(model, prompts)
    with frozen(model), torch.no_grad():
        values = score(model, bank, tokens)
    label = name or (by if isinstance(by, str) else name_of(score).lower())
    if values.shape != (len(bank),):
        raise SettingError(
            f"The score {label} gave {tuple(values.shape)} for {len(bank)} vectors; expected one "
            "number per vector."
        )
    if bool(values.isnan().any()):
        bad = bank.numbers[int(values.isnan().nonzero()[0])]
        raise NotFiniteError(f"The score {label} of vector {bad} is NaN: it cannot be ranked.")
    return bank.with_score(label, values.float()).sort(label)
