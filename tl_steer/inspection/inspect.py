"""Inspection: what vectors change inside the model on one prompt, beside the unsteered model.

vectors x prompt -> attention, next-token distributions, residual stream, logit attribution
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.origin import Origin, origin_of
from tl_steer.errors import SettingError
from tl_steer.files.signatures import checked
from tl_steer.hook_points.positions import Positions
from tl_steer.inspection.asked import (
    Part,
    labels_of,
    one_prompt,
    patterns_kept,
    rows_of,
    rows_per_pass,
    told_of,
    unsteered_first,
)
from tl_steer.inspection.attribution import average_gradient, differentiable, parts, through_heads
from tl_steer.inspection.lens import BY_LOGIT, BY_PROBABILITY, read_lens
from tl_steer.inspection.result import Inspection, joined
from tl_steer.models.model import HookedModel, device_of, dtype_of
from tl_steer.models.recording import Heads, Recording, record
from tl_steer.models.state import frozen, refuse_inference_weights
from tl_steer.models.tokens import TokenBatch
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.output_kl import Readout, readout_of
from tl_steer.perturbations.perturbation import Scale

_OFFERED = 4  # tokens gained, and tokens lost, that effects are attributed to


@checked
def inspect(
    model: HookedModel,
    bank: Bank,
    prompt: Any,
    *,
    vectors: Sequence[int] | None = None,
    toward: Sequence[int] = (),
    heads: int | Literal["all"] = 12,
    top: int = 8,
    batch_rows: int = 16,
    scale: Scale = 1,
    positions: Positions | None = None,
) -> Inspection:
    """Run a prompt under vectors of a bank and keep what views show.

    Args:
        prompt: one prompt, as `elicit` takes them in a list.
        vectors: rows of the bank; all of them unless given. The inspection calls them by their
            numbers in it.
        toward: token ids that effects are attributed to, besides the tokens gained and lost most
            behind the prompt.
        heads: how many heads' attention patterns are kept, those that change most, or "all" for a
            few vectors on a short prompt. How much each head changes, and where the last token
            looks, is kept of all.
        top: how many tokens gained, lost and likely are kept for each position.
        batch_rows: vectors per pass; fewer where memory would not do. Results do not depend on it.
        scale: how strongly the vectors act: a number, or one for each of those shown, whose labels
            then say it.
        positions: the tokens that they act on, if not those that they were trained at.

    Raises:
        ForeignModelError: the bank was made for another model.
        PromptError: more than one prompt, or an unusable one.
        SettingError: a vector that is not in the bank, bad numbers, or heads="all" where the
            patterns would take more than a gigabyte.

    One prompt shows what a vector does there, not what it does. Models without `ln_final` and
    `unembed`, and those that do something else to their logits, get no logit lens and no
    attribution; models without attention no attention.
    """
    rows = rows_of(bank, vectors)
    _refuse_numbers(heads, top, batch_rows)
    origin = origin_of(model, bank)
    tokens = one_prompt(model, prompt)
    most = patterns_kept(model, heads, len(rows), int(tokens.lengths[0]))
    vocabulary = int(model.cfg.d_vocab)
    if not all(0 <= token < vocabulary for token in toward):
        raise SettingError(f"toward={tuple(toward)}: expected ids below {vocabulary}.")
    step = max(1, min(batch_rows, rows_per_pass(model, int(tokens.lengths[0]))))
    refuse_inference_weights(model)
    edits = bank[rows].perturbation().used(scale, positions)
    labels = labels_of(bank, rows, scale)
    with frozen(model):
        read = readout_of(model)
        chunks = [slice(i, i + step) for i in range(0, len(rows), step)]
        return joined(
            [
                _inspect(
                    model,
                    bank,
                    origin,
                    tokens,
                    Part(rows[some], labels[some], edits.select(some)),
                    list(toward),
                    most,
                    min(top, vocabulary),
                    read,
                )
                for some in chunks
            ]
        )


def _inspect(
    model: HookedModel,
    bank: Bank,
    origin: Origin,
    tokens: TokenBatch,
    part: Part,
    toward: list[int],
    heads: int,
    top: int,
    read: Readout | None,
) -> Inspection:
    edits = unsteered_first(part.edits)
    looked = Heads.of(model, tokens, len(part.rows), heads)
    seen = record(model, edits.to(device_of(model)), tokens, look=looked.look)
    ids = tokens.ids[0, : int(tokens.lengths[0])].cpu()
    found = _next_tokens(seen.logits, ids, top) | _streams(seen)
    found |= read_lens(model, seen, found["kl"], read)
    found |= _attribution(model, seen, found, toward, read)
    kept, patterns = looked.kept()
    if kept.shape[1] == 0:
        patterns = patterns.new_zeros(len(part.rows), 0, 2, len(ids), len(ids))
    named = ("gained", "lost", "likely", *BY_LOGIT, *BY_PROBABILITY, "toward")
    return Inspection(
        **(told_of(model, bank, origin, tokens, part, *(found[n] for n in named)) | found),
        ids=ids,
        steered=tokens.select(edits.positions)[0, : len(ids)].cpu(),
        attention_change=looked.change,
        kept=kept,
        patterns=patterns,
        last_rows=looked.last_rows(),
    )


def _next_tokens(
    logits: Float[Tensor, "run pos vocabulary"], ids: Int[Tensor, " pos"], top: int
) -> dict[str, Tensor]:
    """How next-token distributions change, at every position."""
    own = at_least_float32(logits).log_softmax(dim=-1).cpu()
    base, steered = own[:1], own[1:]
    p, q = base.exp(), steered.exp()
    gained, lost = (q - p).topk(top).indices, (p - q).topk(top).indices

    def both(tokens: Tensor) -> Tensor:
        before = p.expand_as(q).gather(2, tokens)
        return torch.stack([before, q.gather(2, tokens)], dim=-1).float()

    following = ids[1:].expand(len(own), -1)[..., None]
    told = own[:, :-1].gather(2, following)
    likely = own.topk(top)
    return {
        "kl": (q * (steered - base)).sum(dim=-1).clamp_min(0.0).float(),
        "gained": gained,
        "gained_p": both(gained),
        "lost": lost,
        "lost_p": both(lost),
        "likely": likely.indices,
        "likely_lp": likely.values.float(),
        "next_lp": told[..., 0].float(),
        "next_rank": (own[:, :-1] > told).sum(dim=-1),
    }


def _streams(seen: Recording) -> dict[str, Tensor]:
    return {
        "response": (seen.stream[1:] - seen.stream[:1]).norm(dim=-1),
        "clean": seen.stream[0].norm(dim=-1),
        "added": (seen.source[1:] - seen.source[:1]).norm(dim=-1),
        "entering": seen.source[0].norm(dim=-1),
    }


def _attribution(
    model: HookedModel,
    seen: Recording,
    found: dict[str, Tensor],
    toward: list[int],
    read: Readout | None,
) -> dict[str, Tensor]:
    """Which component moved the logits of the tokens gained and lost behind the prompt."""
    change = parts(seen)
    n, streams = change.shape[:2]
    layers, n_heads = streams - 1, int(model.cfg.n_heads)
    offered = [found[name][:, -1, :_OFFERED] for name in ("gained", "lost")]
    tokens = torch.cat(
        [*offered, torch.tensor(toward, dtype=torch.long, device="cpu").expand(n, -1)], dim=1
    )
    place: dict[str, Any] = {"dtype": dtype_of(model), "device": device_of(model)}
    if read is None or not differentiable(read, seen.stream[0, -1, -1], **place):
        read, tokens = None, tokens[:, :0]
    split = through_heads(model, seen, change[:, 1:, 0])
    direct = torch.zeros(n, streams, 3, tokens.shape[1], dtype=torch.float32, device="cpu")
    heads = torch.full(
        (n, layers, n_heads, tokens.shape[1]), torch.nan, dtype=torch.float32, device="cpu"
    )
    for v in range(n if read else 0):
        gradient = average_gradient(
            read,  # type: ignore[arg-type]
            seen.stream[0, -1, -1],
            seen.stream[v + 1, -1, -1],
            tokens[v],
            **place,
        )
        direct[v] = torch.einsum("lcd,md->lcm", change[v], gradient)
        if split is not None:
            heads[v] = torch.einsum("lhd,md->lhm", split[v], gradient)
    last = seen.logits[:, -1].float().cpu()
    moved = torch.stack([(last[v + 1] - last[0])[tokens[v]] for v in range(n)])
    return {"toward": tokens, "moved": moved, "direct": direct, "heads": heads}


def _refuse_numbers(heads: int | str, top: int, batch_rows: int) -> None:
    least = 0 if heads == "all" else heads
    if isinstance(least, str) or least < 0 or top < 1 or batch_rows < 1:
        raise SettingError(
            f"heads={heads!r}, top={top}, batch_rows={batch_rows}: expected at least 0 (or 'all'), "
            "1 and 1."
        )
