"""Continuations: what vectors make a model write behind one prompt, token by token.

vectors x prompt -> greedy text -> both models read it -> log-ratio, alternatives, attention and
attribution at every token
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.origin import origin_of
from tl_steer.errors import SettingError
from tl_steer.files.signatures import checked
from tl_steer.hook_points.positions import Positions
from tl_steer.inspection.asked import (
    Part,
    labels_of,
    one_prompt,
    rows_of,
    rows_per_pass,
    told_of,
    unsteered_first,
)
from tl_steer.inspection.attended import Attended
from tl_steer.inspection.attribution import differentiable
from tl_steer.inspection.generated import STEPS, Continuations
from tl_steer.inspection.steps import attributed, compared
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.hooks import perturbing
from tl_steer.models.model import HookedModel, device_of, dtype_of
from tl_steer.models.recording import record
from tl_steer.models.rows import Row, by_row, continued, through_end, until_end
from tl_steer.models.state import frozen, refuse_inference_weights
from tl_steer.models.tokens import TokenBatch, decode, refuse_beyond_context
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.output_kl import Readout, readout_of
from tl_steer.perturbations.perturbation import Perturbation, Scale


@checked
def continuations(
    model: HookedModel,
    bank: Bank,
    prompt: Any,
    *,
    vectors: Sequence[int] | None = None,
    max_new_tokens: int = 24,
    heads: int = 6,
    top: int = 6,
    batch_rows: int = 16,
    scale: Scale = 1,
    positions: Positions | None = None,
) -> Continuations:
    """Continue a prompt greedily under vectors of a bank, and ask of every token that was written
    what it has to do with the vector.

    Both models, steered and unsteered, read the steered text and are compared at every token of it
    (teacher forcing). Vectors that act on some tokens alone act on those.

    Args:
        prompt: one prompt, as `elicit` takes them in a list.
        vectors: rows of the bank; all of them unless given.
        max_new_tokens: where to stop; a text also stops behind the token that ends an answer.
        heads: how many heads' attention is kept for each token, those that change most there.
        top: how many of the likeliest tokens are kept for each, of either model.
        batch_rows: vectors per pass; fewer where memory would not do. Results do not depend on it.
        scale, positions: as for `inspect`.

    Raises:
        ForeignModelError: the bank was made for another model.
        ModelError: the model cannot generate.
        PromptError: more than one prompt, an unusable one, or one behind which `max_new_tokens` do
            not fit into the model's context.
        SettingError: a vector that is not in the bank, or bad numbers.

    A greedy text is one sample of what a vector does; `generate` samples more. Attribution is as
    `inspect` has it: direct, at the token that predicts, and not of what made a component act.
    """
    rows = rows_of(bank, vectors)
    if max_new_tokens < 1 or heads < 0 or top < 1 or batch_rows < 1:
        raise SettingError(
            f"max_new_tokens={max_new_tokens}, heads={heads}, top={top}, batch_rows={batch_rows}: "
            "expected at least 1, 0, 1 and 1."
        )
    origin = origin_of(model, bank)
    refuse_no_text(model)
    tokens = one_prompt(model, prompt)
    refuse_beyond_context(model, tokens, max_new_tokens)
    refuse_inference_weights(model)
    edits = bank[rows].perturbation().used(scale, positions)
    with frozen(model):
        *new, own = _said(model, edits, tokens, max_new_tokens, batch_rows)
        own_lp = _told(model, edits, tokens, own, batch_rows)
        asked = _Asked(tokens, _readable(model), heads, min(top, int(model.cfg.d_vocab)))
        steps = _stacked([_steps(model, edits.select([v]), y, asked) for v, y in enumerate(new)])
    steps |= {"own": own, "own_lp": own_lp}
    part = Part(rows, labels_of(bank, rows, scale), edits)
    named = (steps[name] for name in ("new", "own", "likely", "against"))
    return Continuations(
        **(told_of(model, bank, origin, tokens, part, *named) | steps),
        unsteered=decode(model, until_end(model, own), special=False),
        texts=tuple(decode(model, until_end(model, y), special=False) for y in new),
    )


@dataclass(frozen=True)
class _Asked:
    """What is wanted of every text."""

    tokens: TokenBatch
    read: Readout | None
    heads: int
    top: int


def _readable(model: HookedModel) -> Readout | None:
    """From the last stream to logits, where gradients come back."""
    read = readout_of(model)
    if read is None:
        return None
    zero = torch.zeros(int(model.cfg.d_model), dtype=torch.float32, device="cpu")
    place: dict[str, Any] = {"dtype": dtype_of(model), "device": device_of(model)}
    return read if differentiable(read, zero, **place) else None


def _said(
    model: HookedModel, edits: Perturbation, tokens: TokenBatch, n: int, batch_rows: int
) -> list[Int[Tensor, " new"]]:
    """The greedy continuation under every edit and, behind them, the unsteered one."""

    def work(ids: Tensor, rows: list[Row]) -> list[Tensor]:
        return [through_end(model, row).cpu() for row in continued(model, ids, n)]

    with torch.no_grad():
        found = by_row(model, edits.beside_unsteered(), tokens, work, batch_rows=batch_rows)
    return [found[Row(v, 0)] for v in range(len(edits) + 1)]


def _told(
    model: HookedModel,
    edits: Perturbation,
    tokens: TokenBatch,
    text: Int[Tensor, " base"],
    batch_rows: int,
) -> Float[Tensor, "run base"]:
    """Log-probability of a text behind the prompt: unsteered, and under every edit."""
    both = unsteered_first(edits).to(device_of(model))
    length = int(tokens.lengths[0]) + len(text)
    step = max(1, min(batch_rows, rows_per_pass(model, length)))
    out = []
    for rows in torch.arange(len(both), device="cpu").split(step):
        batch = tokens.take([0] * len(rows))
        behind = text[:-1].to(batch.ids.device).expand(len(rows), -1)
        with perturbing(model, both, rows=rows, tokens=batch), torch.no_grad():
            ids = torch.cat([batch.ids, behind], dim=1)
            logits: Tensor = model(ids, return_type="logits")
        own = at_least_float32(logits[:, -len(text) :]).log_softmax(dim=-1).cpu()
        out.append(own.gather(2, text.expand(len(rows), -1)[..., None])[..., 0].float())
    return torch.cat(out)


def _steps(
    model: HookedModel, edit: Perturbation, new: Int[Tensor, " step"], asked: _Asked
) -> dict[str, Tensor]:
    """Everything about one text; the axes are those of `STEPS` without the first."""
    tail, src = len(new), int(asked.tokens.lengths[0]) + len(new) - 1
    looked = Attended(tail, src, asked.heads)
    both = unsteered_first(edit).to(device_of(model))
    seen = record(model, both, asked.tokens, look=looked.look, behind=new[:-1])
    found = compared(seen.logits[:, -tail:], new, asked.top)
    found |= attributed(model, seen, found, new, asked.read)
    kept, change, rows = looked.kept()
    attention = {"kept": kept, "change": change, "rows": rows, "mean_rows": looked.mean()}
    length = torch.tensor(tail, dtype=torch.long, device="cpu")
    return {"new": new, "lengths": length, **found, **attention}


def _stacked(texts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Texts of several lengths on one axis `vec`, filled up behind each."""
    out = {}
    for name, axes in STEPS.items():
        values = [text[name] for text in texts]
        sizes = [max(value.shape[i] for value in values) for i in range(values[0].ndim)]
        fill = 0 if axes.endswith(" int") else torch.nan
        like = values[0]
        whole = torch.full((len(values), *sizes), fill, dtype=like.dtype, device="cpu")
        for v, value in enumerate(values):
            within: tuple[int | slice, ...] = (v, *(slice(0, size) for size in value.shape))
            whole[within] = value
        out[name] = whole
    return out
