"""Vectors on one prompt at several strengths, for a slider that needs no model.

vectors x strengths -> KL at every token, the likeliest next tokens, a continuation and how it reads
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.origin import origin_of
from tl_steer.banks.provenance import check_fits
from tl_steer.errors import SettingError
from tl_steer.files.signatures import checked
from tl_steer.hook_points.positions import Positions
from tl_steer.inspection.asked import one_prompt, rows_of
from tl_steer.inspection.strength import Strength, Strengths
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.model import HookedModel
from tl_steer.models.rows import Row, by_row, continued, through_end, until_end
from tl_steer.models.state import frozen
from tl_steer.models.token_names import token_names
from tl_steer.models.tokens import TokenBatch, decode, refuse_beyond_context
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.radii.fluency import Judge, repetition

SCALES = (-2.0, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0)
_MEMORY = 1 << 29  # bytes of logits in one pass


@checked
def strengths(
    model: HookedModel,
    bank: Bank,
    prompt: Any,
    *,
    vectors: Sequence[int] | None = None,
    control: Bank | None = None,
    scales: Sequence[float | int] = SCALES,
    max_new_tokens: int = 32,
    top: int = 6,
    seed: int = 0,
    batch_rows: int = 32,
    positions: Positions | None = None,
) -> Strengths:
    """Run a prompt under each vector at each strength, and continue it greedily.

    Args:
        prompt: one prompt, as `elicit` takes them in a list.
        vectors: rows of the bank; all of them unless given.
        control: random vectors (`random_bank`) at the same strengths, to be shown beside.
        scales: how many times a vector is added; below 0 its opposite acts. Not 0: the unsteered
            model is always there.
        max_new_tokens: length of the continuations.
        top: how many of the likeliest next tokens are kept.
        seed: of the text drawn from the unsteered model, which is the scale of surprise.
        batch_rows: rows per pass; lower it if memory runs out. Results do not depend on it.
        positions: the tokens that vectors act on, if not those that they were trained at.

    Raises:
        ForeignModelError: the bank or the control was made for another model.
        ModelError: the model cannot generate.
        PromptError: more than one prompt, or no room behind it.
        SettingError: a vector that is not in the bank, bad numbers, or a control of another place.

    One prompt and one greedy text a strength show how a vector acts there, and no more:
    `dose_response` says which strengths are of use.
    """
    rows = rows_of(bank, vectors)
    _refuse(scales, max_new_tokens, top, batch_rows)
    origin = origin_of(model, bank)
    _refuse_control(model, bank, control)
    refuse_no_text(model)
    tokens = one_prompt(model, prompt)
    refuse_beyond_context(model, tokens, max_new_tokens)
    each = tuple(sorted({float(scale) for scale in scales}))
    asked = _asked(bank, rows, control, each)
    edits = _edits(bank, rows, control, asked, positions)
    run = _Run(model, tokens, max_new_tokens, min(top, int(model.cfg.d_vocab)), batch_rows)
    with frozen(model), torch.no_grad():
        steps, fluent, salad = run(edits, asked, seed)
    return Strengths(
        prompt=tokens.texts[0],
        tokens=token_names(getattr(model, "tokenizer", None), tokens.rows()[0].tolist()),
        source=bank.source.name,
        target=bank.target.name,
        vectors=tuple(bank.numbers[row] for row in rows),
        labels=tuple(bank.labels[row] for row in rows),
        scales=each,
        steps=tuple(steps[:-1]),
        unsteered=steps[-1],
        fluent=fluent,
        salad=salad,
        settings={"max_new_tokens": max_new_tokens, "seed": seed}
        | ({} if positions is None else {"positions": positions.to_json()}),
        origin=origin,
    )


@dataclass(frozen=True)
class _Asked:
    """One edit at one strength, and what it is called."""

    row: int
    scale: float
    number: int
    control: bool


def _asked(
    bank: Bank, rows: list[int], control: Bank | None, scales: Sequence[float]
) -> list[_Asked]:
    named = [(bank.numbers[row], False) for row in rows]
    named += [(number, True) for number in (control.numbers if control else ())]
    return [
        _Asked(i, scale, number, random)
        for i, (number, random) in enumerate(named)
        for scale in scales
    ]


def _edits(
    bank: Bank,
    rows: list[int],
    control: Bank | None,
    asked: list[_Asked],
    positions: Positions | None,
) -> Perturbation:
    vectors = bank.vectors[rows]
    if control is not None:
        vectors = torch.cat([vectors, control.vectors.to(vectors)])
    edits = bank.holding(vectors).select([one.row for one in asked])
    return edits.used([one.scale for one in asked], positions).beside_unsteered()


@dataclass(frozen=True)
class _Run:
    """The measurement: `run(edits, asked, seed)`, the unsteered model behind the edits."""

    model: HookedModel
    tokens: TokenBatch
    max_new_tokens: int
    top: int
    batch_rows: int

    def __call__(
        self, edits: Perturbation, asked: list[_Asked], seed: int
    ) -> tuple[list[Strength], float, float]:
        ids = self.tokens.rows()[0]
        base = self._logs(self.model(ids[None], return_type="logits")[0])

        def read(several: Tensor, rows: list[Row]) -> list[Any]:
            return [self._read(one, base) for one in self.model(several, return_type="logits")]

        def text(several: Tensor, rows: list[Row]) -> list[Tensor]:
            new = continued(self.model, several, self.max_new_tokens)
            return [through_end(self.model, row).cpu() for row in new]

        told = self._each(edits, read, max(1, _MEMORY // (4 * base.numel())))
        new = self._each(edits, text, self.batch_rows)
        judge = Judge(self.model, self.tokens, [new[Row(len(asked), 0)]], self.batch_rows)
        surprise = judge.surprise(new)
        every = [*asked, _Asked(len(asked), 0.0, -1, False)]
        steps = [
            self._strength(one, told[row], new[row], surprise[row], new[Row(len(asked), 0)])
            for one, row in ((one, Row(i, 0)) for i, one in enumerate(every))
        ]
        return steps, *judge.scale(self.max_new_tokens, seed)

    def _each(self, edits: Perturbation, work: Any, most: int) -> dict[Row, Any]:
        most = min(most, self.batch_rows)
        return by_row(self.model, edits, self.tokens, work, batch_rows=most)

    def _logs(self, logits: Tensor) -> Float[Tensor, "pos vocabulary"]:
        return at_least_float32(logits).log_softmax(dim=-1)

    def _read(
        self, logits: Float[Tensor, "pos vocabulary"], base: Float[Tensor, "pos vocabulary"]
    ) -> tuple[tuple[float, ...], tuple[tuple[str, float, float], ...]]:
        """KL at every token, and the likeliest tokens behind the last."""
        own = self._logs(logits)
        kl = (own.exp() * (own - base)).sum(dim=-1).clamp_min(0.0)
        best = own[-1].topk(self.top).indices
        words = token_names(getattr(self.model, "tokenizer", None), best.tolist())
        shares = [at[-1, best].exp().tolist() for at in (own, base)]
        return tuple(kl.tolist()), tuple(zip(words, *shares, strict=True))

    def _strength(
        self, one: _Asked, told: Any, new: Tensor, surprise: float, unsteered: Tensor
    ) -> Strength:
        return Strength(
            vector=one.number,
            control=one.control,
            scale=one.scale,
            kl=told[0],
            top=told[1],
            text=decode(self.model, until_end(self.model, new), special=False),
            surprise=surprise,
            repetition=repetition(new),
            changed=new.tolist() != unsteered.tolist(),
        )


def _refuse(scales: Sequence[float | int], n: int, top: int, batch_rows: int) -> None:
    if not scales or not all(math.isfinite(scale) and scale != 0 for scale in scales):
        raise SettingError(
            f"scales={tuple(scales)}: expected one or more finite numbers other than 0."
        )
    if n < 1 or top < 1 or batch_rows < 1:
        raise SettingError(
            f"max_new_tokens={n}, top={top}, batch_rows={batch_rows}: expected at least 1 of each."
        )


def _refuse_control(model: HookedModel, bank: Bank, control: Bank | None) -> None:
    if control is None:
        return
    check_fits(model, control.provenance)
    own, other = ((each.kind, each.source.name, dict(each.form)) for each in (bank, control))
    if own != other:
        raise SettingError(
            f"control= holds {control.kind} edits at {control.source}; expected {bank.kind} edits "
            f"like the bank's, at {bank.source}: random_bank(bank, n=8)."
        )
