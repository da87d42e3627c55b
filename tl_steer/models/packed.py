"""A segment in which prompts share what they begin with.

    apart    [batch pos]   t t t t a a a      packed  [1 pos]   t t t t a a a b b c
                           t t t t b b
                           t t t t a c

Under causal attention a token depends on nothing behind it, so what two prompts begin with alike (a
chat template, as a rule, and often a word or two behind it) is the same in both, steered or not,
and need be run once. So prompts are a tree, and all of it becomes one row; a mask shows each token
its own past alone, and every token keeps its place in its prompt.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.hook_points.site import Point, Site
from tl_steer.models.calls import Call, entering_first
from tl_steer.models.hooks import capturing
from tl_steer.models.model import HookedModel
from tl_steer.models.segment import Segment
from tl_steer.models.tokens import TokenBatch

# Attention costs the square of the length; and what saves less is not worth it.
LONGEST, _WORTH = 768, 0.8
# What a block raises that takes other arguments; apart, it is called as it always is.
CANNOT_PACK = (ModelError, RuntimeError, IndexError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class Packing:
    """Which token of which prompt stands where in the one row.

    Attributes:
        prompt, place: of every token of the row; of several prompts that share it, the first.
        column: where in the row every token of a prompt stands; 0 at padding.
        mask: true at the prompts' real tokens.
    """

    prompt: Int[Tensor, " packed"]
    place: Int[Tensor, " packed"]
    column: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]

    def __len__(self) -> int:
        return len(self.prompt)

    def pack(self, values: Tensor) -> Tensor:
        """`[batch pos ...] -> [1 packed ...]`. Where there is not one row of values for each
        prompt, the first serves all: it must be as long as the longest."""
        own = len(values) == len(self.column)
        rows = self.prompt if own else torch.zeros_like(self.prompt)
        return values[rows.to(values.device), self.place.to(values.device)][None]

    def unpack(self, values: Float[Tensor, "vec 1 packed d"]) -> Float[Tensor, "vec batch pos d"]:
        """The prompts apart again; padding repeats the row's first token."""
        return values[:, 0][:, self.column.to(values.device)]

    def agrees(self, chosen: Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"]) -> bool:
        """Whether a choice of tokens is the same for all prompts where they are one."""
        again = self.pack(chosen)[0][self.column]
        return bool((again == chosen)[self.mask].all())

    def sees(self) -> Bool[Tensor, "packed packed"]:
        """Which token sees which: those up to its place in its prompt."""
        past = self.column[self.prompt]
        upto = torch.arange(past.shape[1], device=past.device) <= self.place[:, None]
        found = torch.zeros(len(self), len(self), dtype=torch.bool, device=past.device)
        found[upto.nonzero()[:, 0], past[upto]] = True
        return found


def common_beginning(tokens: TokenBatch) -> int:
    """How many tokens all prompts begin with."""
    shortest = int(tokens.lengths.min())
    same = (tokens.ids[:, :shortest] == tokens.ids[0, :shortest]).all(dim=0)
    return int(same.long().cumprod(dim=0).sum())


def packing_of(tokens: TokenBatch, *, shared: int | None = None) -> Packing:
    """Pack right-padded prompts as a tree; with `shared`, which all must begin with, apart behind
    so many tokens. The tokens that all begin with stand first in the row."""
    known: dict[tuple[int, int, int], int] = {}
    prompt: list[int] = []
    place: list[int] = []
    column: list[Tensor] = []
    for b, row in enumerate(tokens.rows()):
        at, columns = -1, []
        for k, token in enumerate(row.tolist()):
            # The same token behind the same past; in a branch of its own where nothing is shared.
            key = (at, token, -1 if shared is None or k < shared else b)
            if key not in known:
                known[key] = len(prompt)
                prompt.append(b)
                place.append(k)
            at = known[key]
            columns.append(at)
        column.append(torch.tensor(columns, dtype=torch.long, device="cpu"))
    device = tokens.ids.device
    return Packing(
        torch.tensor(prompt, dtype=torch.long, device=device),
        torch.tensor(place, dtype=torch.long, device=device),
        torch.nn.utils.rnn.pad_sequence(column, batch_first=True).to(device),
        tokens.mask,
    )


class Packed(Segment):
    """A `Segment` of one row that holds all prompts. `run` gives `[vec 1 packed d_model]`.

    Raises:
        ModelError: this model's blocks cannot be called so; as with every segment, the clean
            activations are checked against the model's own.

    Args:
        packing: another way to put them into one row than by their common beginning. That of one
            prompt may have many rows: they begin alike.
    """

    def __init__(
        self,
        model: HookedModel,
        tokens: TokenBatch,
        source: Point,
        target: Point,
        *,
        packing: Packing | None = None,
    ) -> None:
        self.packing = packing or packing_of(tokens)
        super().__init__(model, tokens, source, target)

    def _record(self) -> bool:
        """How the model calls its blocks on the longest and the shortest prompt; and the clean pass
        of the row, which must give what the model gives on those two."""
        whole = self.tokens
        ends = [int(whole.lengths.argmax()), int(whole.lengths.argmin())]
        few = len(whole) > len(ends)
        if few:
            self.tokens = whole.take(ends)
            self.mask = self.tokens.mask
        fresh = super()._record()
        self._compared = few and not fresh
        padded, own = self.tokens.ids.shape, self.clean
        self.calls = {i: self._packed_call(call, padded) for i, call in self.calls.items()}
        if few:
            self._run_row(whole)
            self._refuse_other_row(own, ends)
        else:
            self._entering = self.packing.pack(self._entering)
            self.clean_source = self.packing.pack(self.clean_source)
            self.clean = self.packing.pack(self.clean)
        self.mask = torch.ones_like(self.packing.prompt, dtype=torch.bool)[None]
        self.tokens = TokenBatch(
            self.packing.pack(whole.ids), self.mask, self.tokens.has_bos[:1], ("",)
        )
        return fresh

    def _run_row(self, tokens: TokenBatch) -> None:
        """The clean pass, all prompts in one row from the first block on."""
        stream = self.packing.pack(entering_first(self.model, tokens))
        names = list(dict.fromkeys([self.source.point, self.target.point]))
        with torch.no_grad(), capturing(self.model, names) as seen:
            for layer in range(self.target.layer + 1):
                if layer == self.source.layer:
                    self._entering = stream
                stream = self.calls[layer](self.model.blocks[layer], stream, 1)
        self.clean_source = self.source.read(seen[self.source.point])
        self.clean = self.target.read(seen[self.target.point])

    def _refuse_other_row(self, own: Float[Tensor, "few pos d_model"], ends: list[int]) -> None:
        column = self.packing.column[ends, : own.shape[1]].to(own.device)
        there = self.mask.to(own.device)
        found = self.clean[0][column][there].double()
        clean = own[there].double()
        off = float((found - clean).norm() / clean.norm())
        if not off <= (1e-4 if own.dtype in (torch.float32, torch.float64) else 0.05):
            raise ModelError(f"Prompts in one row give something else (off by {off:.2g}).")

    def _check_replay(self) -> None:
        """Once for every way in which a model calls its blocks, if the row itself was compared with
        the model."""
        if not self._compared:
            super()._check_replay()

    def _packed_call(self, call: Call, padded: torch.Size) -> Call:
        return with_mask(call, self.packing, padded, self._entering.dtype)


def with_mask(call: Call, packing: Packing, padded: torch.Size, dtype: torch.dtype) -> Call:
    """How a block was called on `padded` prompts, for the one row that holds them all.

    Raises:
        ModelError: the block takes no mask for pairs of tokens.
    """
    sees = packing.sees()[None, None].to(call.device)
    mask = torch.zeros_like(sees, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)
    args = tuple(_in_one_row(a, packing, padded, mask) for a in call.args)
    kwargs = {k: _in_one_row(v, packing, padded, mask) for k, v in call.kwargs.items()}
    if "attention_mask" in kwargs:  # where no prompt is padded it may have been None
        kwargs["attention_mask"] = mask
    elif not any(value is mask for value in args):
        raise ModelError("These blocks take no mask for pairs of tokens, so nothing is packed.")
    return replace(call, args=args, kwargs=kwargs)


def worth_packing(packing: Packing) -> bool:
    """Whether it saves work, and the row is not so long that attention eats it up again."""
    return len(packing) <= min(_WORTH * packing.column.numel(), LONGEST)


def _in_one_row(value: Any, packing: Packing, padded: torch.Size, mask: Tensor) -> Any:
    """One argument of a block: masks by the packed one, what is per token by the packed tokens'."""
    if isinstance(value, (tuple, list)):
        return type(value)(_in_one_row(v, packing, padded, mask) for v in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4 and value.shape[2:] == (padded[1], padded[1]):
        return mask
    if value.ndim >= 2 and value.shape[0] in (1, padded[0]) and value.shape[1] == padded[1]:
        return packing.pack(value)
    return value[packing.place.to(value.device)] if value.shape == padded[1:] else value


def packed_if_possible(
    model: HookedModel,
    tokens: TokenBatch,
    source: Site,
    target: Point,
    *,
    chosen: Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"],
) -> Segment:
    """Prompts packed where that saves work and this model's blocks allow it, apart otherwise.

    Args:
        chosen: the tokens that are steered, or how strongly.
    """
    if len(tokens) > 1:
        packing = packing_of(tokens)
        if worth_packing(packing) and packing.agrees(chosen):
            return packed_or_apart(model, tokens, source, target, packing)
    return Segment(model, tokens, source, target)


def packed_or_apart(
    model: HookedModel, tokens: TokenBatch, source: Point, target: Point, packing: Packing
) -> Segment:
    """One row by a packing, where it is not too long and this model's blocks can be called so."""
    if len(packing) <= LONGEST:
        with suppress(*CANNOT_PACK):
            return Packed(model, tokens, source, target, packing=packing)
    return Segment(model, tokens, source, target)
