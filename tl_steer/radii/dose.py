"""Dose and response: what vectors do as they grow.

radii x signs x vectors x prompts -> next-token KL, continuation -> its surprise
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tl_steer.banks.bank import Bank
from tl_steer.banks.control import random_bank
from tl_steer.banks.origin import origin_of
from tl_steer.banks.said import followed
from tl_steer.errors import SettingError
from tl_steer.files.signatures import checked
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.model import HookedModel
from tl_steer.models.rows import Row, by_row, continued, through_end, until_end
from tl_steer.models.segment import Segment
from tl_steer.models.state import frozen
from tl_steer.models.tokens import Prompts, TokenBatch, decode, refuse_beyond_context, tokenize
from tl_steer.objectives.divergence import at_least_float32
from tl_steer.objectives.output_kl import divergence_from, next_token, readout_of
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.radii.band import Dose, DoseResponse
from tl_steer.radii.fluency import Judge, repetition

SHARES = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)


@checked
def dose_response(
    model: HookedModel,
    bank: Bank,
    prompts: Prompts | TokenBatch,
    *,
    shares: Sequence[float | int] = SHARES,
    signs: Sequence[int] = (1, -1),
    n_random: int | None = None,
    max_new_tokens: int = 24,
    seed: int = 0,
    batch_rows: int = 64,
) -> DoseResponse:
    """Steer with every vector at every radius and sign, and with random vectors beside them.

    Args:
        prompts: as for `elicit`. Prompts that the bank was not trained on say more.
        shares: the radii, as shares of the median residual norm at the bank's source (over
            these prompts, BOS left out), which is comparable across layers and models. For kinds
            whose radius is no norm, shares of the radius that they were trained at.
        signs: 1 for the vectors, -1 for their opposites.
        n_random: how many random vectors serve as the control; as many as the bank has unless
            given. They come in one sign, since the opposite of a random vector is another.
        max_new_tokens: length of the continuations, which are greedy.
        seed: of the random vectors and of the text sampled from the unsteered model.
        batch_rows: rows per batch; lower it if memory runs out. Results do not depend on it.

    Raises:
        ForeignModelError: the bank was made for another model.
        ModelError: the model has no `generate`.
        SettingError: bad arguments, before any work.

    The continuations are short and few: the sweep tells paraphrase from gibberish, and says nothing
    of what a vector means. Costs little more than the continuations themselves.
    """
    _refuse(bank, shares, signs, max_new_tokens, batch_rows, n_random)
    origin = origin_of(model, bank)
    tokens = tokenize(model, prompts)
    n = len(bank) if n_random is None else n_random
    with frozen(model):
        edits, norm = bank.perturbation(), bank.radius
        if edits.radius_is_norm:
            norm = Segment(model, tokens, bank.source, bank.target).source_norm()
        groups = [Group(range(len(bank)), tuple(signs), numbers=bank.numbers)]
        if n > 0:
            random = random_bank(bank, n=n, seed=seed).vectors
            edits = bank.holding(torch.cat([bank.vectors, random]))
            groups.append(Group(range(len(bank), len(edits)), (1,), control=True))
        sweep = Sweep(
            model, tokens, norm, max_new_tokens=max_new_tokens, seed=seed, batch_rows=batch_rows
        )
        found = sweep([share * norm for share in sorted(set(shares))], edits, groups)
    return replace(found, origin=origin)


@dataclass(frozen=True)
class Group:
    """Edits to try, by their rows, in which signs, whether they are the control, and their
    numbers."""

    rows: range
    signs: tuple[int, ...]
    control: bool = False
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """One edit at one radius."""

    row: int
    radius: float
    sign: int
    index: int
    control: bool


@dataclass(frozen=True, eq=False)
class _Unsteered:
    """What the model says by itself, and the scale of surprise."""

    own: list[Tensor]
    judge: Judge
    fluent: float
    salad: float


class Sweep:
    """The measurement itself: `sweep(radii, edits, groups)`, the groups together in every batch.

    What the model says by itself is found by the first call, beside the edits, and kept for those
    that follow.
    """

    def __init__(
        self,
        model: HookedModel,
        tokens: TokenBatch,
        norm: float,
        *,
        max_new_tokens: int,
        seed: int,
        batch_rows: int,
    ) -> None:
        refuse_no_text(model)
        refuse_beyond_context(model, tokens, max_new_tokens)
        self.model, self.tokens, self.norm = model, tokens, norm
        self.max_new_tokens, self.seed, self.batch_rows = max_new_tokens, seed, batch_rows
        with frozen(model), torch.no_grad():
            self._read = readout_of(model)
            self._base = [next_token(model, row[None])[0] for row in tokens.rows()]
        self._unsteered: _Unsteered | None = None

    def __call__(
        self, radii: Sequence[float], edits: Perturbation, groups: Sequence[Group]
    ) -> DoseResponse:
        asked = [
            _Asked(row, radius, sign, number, group.control)
            for group in groups
            for radius in radii
            for sign in group.signs
            for number, row in zip(group.numbers or range(len(group.rows)), group.rows, strict=True)
        ]
        with frozen(self.model), torch.no_grad():
            kl, new = self._steer(edits, asked)
            if self._unsteered is None:
                own = [new.pop(Row(len(asked), p)) for p in range(len(self.tokens))]
                self._unsteered = self._judged(own)
            alone = self._unsteered
            surprise = alone.judge.surprise(new)
        return DoseResponse(
            doses=tuple(
                self._dose(asked[row.vector], row.prompt, kl[row], surprise[row], text, alone.own)
                for row, text in sorted(new.items(), key=lambda at: (at[0].vector, at[0].prompt))
            ),
            source=edits.site.name,
            norm=self.norm,
            fluent=alone.fluent,
            salad=alone.salad,
            prompts=self.tokens.texts,
            unsteered=tuple(self._text(row) for row in alone.own),
            settings={"max_new_tokens": self.max_new_tokens, "seed": self.seed},
        )

    def _judged(self, own: list[Tensor]) -> _Unsteered:
        judge = Judge(self.model, self.tokens, own, self.batch_rows)
        return _Unsteered(own, judge, *judge.scale(self.max_new_tokens, self.seed))

    def _steer(
        self, edits: Perturbation, asked: list[_Asked]
    ) -> tuple[dict[Row, float], dict[Row, Tensor]]:
        """Next-token KL and the continuation of every edit, and of the unsteered model behind them
        unless that is known."""
        edits = _at_radii(edits, asked)
        edits = edits.beside_unsteered() if self._unsteered is None else edits

        def speak(ids: Tensor, rows: list[Row]) -> list[tuple[float, Tensor]]:
            new, first = self._spoken(ids)
            kl = divergence_from(torch.stack([self._base[row.prompt] for row in rows]), first)
            texts = [through_end(self.model, row).cpu() for row in new]
            return list(zip(kl.tolist(), texts, strict=True))

        said = by_row(self.model, edits, self.tokens, speak, batch_rows=self.batch_rows)
        return {row: kl for row, (kl, _) in said.items()}, {row: y for row, (_, y) in said.items()}

    def _spoken(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Continuations, and log-probabilities of their first token: of the very pass that it came
        from, where they can be read there."""
        if self._read is None:
            return continued(self.model, ids, self.max_new_tokens), next_token(self.model, ids)
        new, streams = followed(self.model, ids, self.max_new_tokens)
        return new, at_least_float32(self._read(streams[:, :1])[:, 0]).log_softmax(dim=-1)

    def _dose(
        self,
        edit: _Asked,
        prompt: int,
        kl: float,
        surprise: float,
        new: Tensor,
        own: Sequence[Tensor],
    ) -> Dose:
        return Dose(
            radius=edit.radius,
            share=edit.radius / self.norm,
            sign=edit.sign,
            vector=edit.index,
            prompt=prompt,
            control=edit.control,
            kl=kl,
            surprise=surprise,
            repetition=repetition(new),
            changed=new.tolist() != own[prompt].tolist(),
            text=self._text(new),
        )

    def _text(self, new: Tensor) -> str:
        return decode(self.model, until_end(self.model, new), special=False)


def _at_radii(edits: Perturbation, asked: Sequence[_Asked]) -> Perturbation:
    rows = [one.row for one in asked]
    radii = torch.tensor([a.sign * a.radius for a in asked], dtype=torch.float32, device="cpu")
    return edits.select(rows).scaled(radii / edits.lengths()[rows])


def _refuse(
    bank: Bank,
    shares: Sequence[float | int],
    signs: Sequence[int],
    max_new_tokens: int,
    batch_rows: int,
    n_random: int | None,
) -> None:
    if len(bank) == 0 or not bool((bank.perturbation().lengths() > 0).all()):
        raise SettingError("Expected at least one vector, and none of zeros: they have no ray.")
    if not shares or not all(0 < share < math.inf for share in shares):
        raise SettingError(f"shares={tuple(shares)}: expected one or more finite numbers above 0.")
    if not signs or not set(signs) <= {1, -1} or len(set(signs)) != len(signs):
        raise SettingError(f"signs={tuple(signs)}: expected (1,), (-1,) or (1, -1).")
    if max_new_tokens < 1 or batch_rows < 1 or (n_random is not None and n_random < 0):
        raise SettingError(
            f"max_new_tokens={max_new_tokens}, batch_rows={batch_rows}, n_random={n_random}: "
            "expected at least 1, 1 and 0."
        )
