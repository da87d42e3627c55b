"""What vectors make a model say, how sure it is of it, and what it thinks of it unsteered."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.models.branches import LONGEST, last_point, last_stream
from tl_steer.models.hooks import installed
from tl_steer.models.model import HookedModel, device_of
from tl_steer.models.rows import Row, by_row, continued, through_end
from tl_steer.models.tokens import TokenBatch
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.output_kl import Readout

BATCH_ROWS = 64


@dataclass(frozen=True, eq=False)
class Said:
    """A greedy continuation, up to and with the token that ends it.

    Attributes:
        ids: its tokens.
        sure: log-probability of each under the very edit that said it, in nats.
    """

    ids: Int[Tensor, " new"]
    sure: Float[Tensor, " new"]


def said(
    model: HookedModel, bank: Bank, tokens: TokenBatch, n: int, read: Readout
) -> dict[Row, Said]:
    """What every vector makes the model say behind every prompt: at most `n` tokens, greedily."""

    def work(ids: Tensor, rows: list[Row]) -> list[Said]:
        new, streams = followed(model, ids, n)
        sure = nats_of(read, streams, new).neg()
        kept = [through_end(model, row) for row in new]
        return [Said(y.cpu(), p[: len(y)]) for y, p in zip(kept, sure, strict=True)]

    return by_row(model, bank.perturbation(), tokens, work, batch_rows=BATCH_ROWS)


def followed(
    model: HookedModel, ids: Int[Tensor, "batch pos"], n: int
) -> tuple[Int[Tensor, "batch new"], Float[Tensor, "batch new d_model"]]:
    """Greedy continuations, and the last residual stream at the token before each of theirs."""
    seen: list[Tensor] = []

    def keep(activation: Tensor, hook: object = None) -> None:
        seen.append(activation[:, -1].detach())

    with installed(model, [(last_point(model), keep)]):  # type: ignore[list-item]
        new = continued(model, ids, n)
    return new, torch.stack(seen[: new.shape[1]], dim=1)


def nats_of(
    read: Readout, streams: Float[Tensor, "batch new d_model"], new: Int[Tensor, "batch new"]
) -> Float[Tensor, "batch new"]:
    """-log p of tokens, from the streams before them; one position at a time, since a vocabulary is
    wide."""
    told = []
    for k in range(new.shape[1]):
        logits = at_least_float32(read(streams[:, k : k + 1])[:, 0])
        told.append(
            torch.nn.functional.cross_entropy(logits, new[:, k].to(logits.device), reduction="none")
        )
    return torch.stack(told, dim=1).cpu()


def surprise(
    model: HookedModel,
    starts: Sequence[Int[Tensor, " _"]],
    texts: Mapping[Row, Int[Tensor, " _"]],
    read: Readout,
) -> dict[Row, Float[Tensor, " _"]]:
    """-log p of every token of every text behind the start of its prompt, unsteered, in nats.

    Args:
        starts: what is read before the texts of each prompt.
    """
    same: defaultdict[int, dict[tuple[int, ...], list[Row]]] = defaultdict(dict)
    for row, text in texts.items():
        same[row.prompt].setdefault(tuple(text.tolist()), []).append(row)
    out: dict[Row, Tensor] = {}
    for prompt, rows in same.items():
        start, told = starts[prompt], list(rows)
        step = max(1, (LONGEST - len(start)) // max(map(len, told)))
        for part in (told[i : i + step] for i in range(0, len(told), step)):
            for ids, nats in zip(part, _behind(model, start, part, read), strict=True):
                out |= dict.fromkeys(rows[ids], nats)
    return out


def _behind(
    model: HookedModel, start: Int[Tensor, " pos"], texts: list[tuple[int, ...]], read: Readout
) -> list[Float[Tensor, " _"]]:
    device = device_of(model)
    new = [torch.tensor(text, dtype=torch.long, device=device) for text in texts]
    rows = [torch.cat([start.to(device), text[:-1]]) for text in new]  # the last is never read
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long, device=device)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    batch = TokenBatch(ids, mask, torch.zeros_like(mask[:, 0]), ("",) * len(rows))
    streams = last_stream(model, batch)[:, len(start) - 1 :]
    nats = nats_of(read, streams, torch.nn.utils.rnn.pad_sequence(new, batch_first=True))
    return [row[: len(text)] for row, text in zip(nats, texts, strict=True)]
