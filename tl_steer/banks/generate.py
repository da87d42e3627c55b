"""Steered generation: many vectors in one batch, each row its own vector."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.generations import Generations
from tl_steer.banks.origin import origin_of
from tl_steer.errors import SettingError
from tl_steer.files.signatures import checked
from tl_steer.hook_points.positions import Positions
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.model import HookedModel
from tl_steer.models.rows import Row, by_row, continued, until_end
from tl_steer.models.state import frozen, seeded
from tl_steer.models.tokens import Prompts, TokenBatch, decode, refuse_beyond_context, tokenize
from tl_steer.perturbations.perturbation import Perturbation, Scale


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
    scale: Scale = 1,
    positions: Positions | None = None,
) -> Generations:
    """Continue every prompt under every vector of the bank, and once without any.

    Args:
        prompts: as for `elicit`.
        max_new_tokens: where to stop; a row also stops at a token that ends an answer: the
            tokenizer's end of text, and what the model's generation config names.
        temperature: `None` decodes greedily; a number samples.
        top_k, top_p: restrict sampling; only with a temperature.
        seed: for sampling. The global random state is left as it was.
        use_past_kv_cache: leave it on, but for tests.
        batch_rows: rows per batch; lower it if memory runs out. Greedy rows do not depend on it.
        scale: how strongly the vectors act: a number, or one for each.
        positions: the tokens that they act on, if not those that they were trained at:
            `hook_points.PROMPT`, `GENERATED`, `Positions(start=5)`, `Positions(decay=0.9)`.

    Raises:
        ForeignModelError: the bank was made for another model.
        ModelError: the model cannot generate.
        PromptError, SettingError: bad arguments, before any work; among them prompts behind which
            `max_new_tokens` do not fit into the model's context.
    """
    _refuse_settings(max_new_tokens, temperature, top_k, top_p, batch_rows)
    origin = origin_of(model, bank)
    refuse_no_text(model, cached=use_past_kv_cache)
    tokens = tokenize(model, prompts)
    refuse_beyond_context(model, tokens, max_new_tokens)
    sampling = sampling_of(temperature) | (
        {} if temperature is None else {"top_k": top_k, "top_p": top_p}
    )
    edits = bank.perturbation().used(scale, positions).beside_unsteered()
    with frozen(model), torch.no_grad(), seeded(model, seed):
        done = texts_by_row(
            model,
            edits,
            tokens,
            max_new_tokens,
            sampling,
            cached=use_past_kv_cache,
            batch_rows=batch_rows,
        )
    n = len(bank)
    return Generations(
        prompts=tokens.texts,
        unsteered=tuple(done[Row(n, p)] for p in range(len(tokens))),
        texts=tuple(tuple(done[Row(v, p)] for p in range(len(tokens))) for v in range(n)),
        labels=bank.labels,
        numbers=bank.numbers,
        settings={"max_new_tokens": max_new_tokens, "seed": seed, **sampling}
        | used_settings(scale, positions),
        origin=origin,
    )


def sampling_of(temperature: float | int | None) -> dict[str, Any]:
    """Settings of the model's own generation; greedy without a temperature."""
    return {"do_sample": temperature is not None} | (
        {} if temperature is None else {"temperature": temperature}
    )


def texts_by_row(
    model: HookedModel,
    edits: Perturbation,
    tokens: TokenBatch,
    n: int,
    sampling: Mapping[str, Any],
    *,
    cached: bool = True,
    batch_rows: int = 64,
    heard: Callable[[list[Row], list[str]], None] | None = None,
) -> dict[Row, str]:
    """What the model says of every prompt under every edit; it must be frozen.

    Args:
        heard: told of the rows of a batch and of their texts so far, whenever there is one more
            token, from inside the forward pass (`models.rows.continued`).
    """

    def texts(new: Tensor) -> list[str]:
        return [decode(model, until_end(model, row), special=False) for row in new]

    def work(ids: Tensor, rows: list[Row]) -> list[str]:
        tell = None if heard is None else lambda new: heard(rows, texts(new))
        return texts(continued(model, ids, n, cached=cached, heard=tell, **sampling))

    return by_row(model, edits, tokens, work, batch_rows=batch_rows)


def used_settings(scale: Scale, positions: Positions | None) -> dict[str, Any]:
    """How a bank was used, as JSON, where that is not how it was trained."""
    factors = torch.as_tensor(scale, dtype=torch.float32, device="cpu")
    return ({} if bool((factors == 1).all()) else {"scale": factors.tolist()}) | (
        {} if positions is None else {"positions": positions.to_json()}
    )


def _refuse_settings(
    n: int, temperature: float | int | None, top_k: int | None, top_p: float | int | None, rows: int
) -> None:
    if n < 1 or rows < 1:
        raise SettingError(f"max_new_tokens={n}, batch_rows={rows}: expected at least 1 of each.")
    if temperature is not None and not temperature > 0:
        raise SettingError(f"temperature={temperature}: expected above 0, or None for greedy.")
    if temperature is None and (top_k is not None or top_p is not None):
        raise SettingError("top_k and top_p restrict sampling: give a temperature as well.")
