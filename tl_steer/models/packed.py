"""A segment in which prompts share their common beginning.

    apart    [batch pos]   t t t t a a a      packed  [1 pos]   t t t t a a a b b
                           t t t t b b

Under causal attention a token depends on nothing behind it, so what prompts begin with alike (a
chat template, as a rule) is the same in all of them, steered or not, and need be run once. All
prompts become one row; a mask keeps each from seeing the others, and every token keeps its place
in its own prompt.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Point, Site
from tl_steer.models.calls import Call
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
        prompt, place: of every token of the row; `prompt` is -1 in the common beginning.
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
        """`[batch pos ...] -> [1 packed ...]`; one row of values serves all prompts."""
        rows = self.prompt.clamp(min=0) if len(values) > 1 else torch.zeros_like(self.prompt)
        return values[rows.to(values.device), self.place.to(values.device)][None]

    def unpack(self, values: Float[Tensor, "vec 1 packed d"]) -> Float[Tensor, "vec batch pos d"]:
        """The prompts apart again; padding repeats the row's first token."""
        return values[:, 0][:, self.column.to(values.device)]

    def agrees(self, chosen: Bool[Tensor, "batch pos"]) -> bool:
        """Whether a choice of tokens is the same for all prompts where they are one."""
        again = self.pack(chosen)[0][self.column]
        return bool((again == chosen)[self.mask].all())

    def sees(self) -> Bool[Tensor, "packed packed"]:
        """Which token sees which: earlier ones of its own prompt and of the beginning."""
        earlier = self.place[None] <= self.place[:, None]
        own = self.prompt[None] == self.prompt[:, None]
        return earlier & (own | (self.prompt[None] == -1))


def common_beginning(tokens: TokenBatch) -> int:
    """How many tokens all prompts begin with."""
    shortest = int(tokens.lengths.min())
    same = (tokens.ids[:, :shortest] == tokens.ids[0, :shortest]).all(dim=0)
    return int(same.long().cumprod(dim=0).sum())


def packing_of(tokens: TokenBatch, *, shared: int | None = None) -> Packing:
    """Pack right-padded prompts by their longest common beginning, or by `shared` tokens of it."""
    shared = common_beginning(tokens) if shared is None else shared
    at = torch.arange(tokens.ids.shape[1], device=tokens.ids.device)
    apart = tokens.mask & (at >= shared)
    prompt, place = apart.nonzero(as_tuple=True)
    column = at.repeat(len(tokens), 1)
    column[apart] = shared + torch.arange(len(prompt), device=column.device)
    column = torch.where(tokens.mask, column, 0)
    return Packing(
        torch.cat([torch.full_like(at[:shared], -1), prompt]),
        torch.cat([at[:shared], place]),
        column,
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
        """The clean pass prompt by prompt, then everything that was kept of it in one row."""
        fresh = super()._record()
        padded = self.tokens.ids.shape
        self.calls = {i: self._packed_call(call, padded) for i, call in self.calls.items()}
        self._entering = self.packing.pack(self._entering)
        self.clean_source = self.packing.pack(self.clean_source)
        self.clean = self.packing.pack(self.clean)
        self.mask = torch.ones_like(self.packing.prompt, dtype=torch.bool)[None]
        self.tokens = TokenBatch(
            self.packing.pack(self.tokens.ids), self.mask, self.tokens.has_bos[:1], ("",)
        )
        return fresh

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
    positions: Positions,
) -> Segment:
    """Prompts packed where that saves work and this model's blocks allow it, apart otherwise."""
    if len(tokens) > 1:
        packing = packing_of(tokens)
        if worth_packing(packing) and packing.agrees(tokens.select(positions)):
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
