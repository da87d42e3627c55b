"""A packed row that runs in stages, each behind the keys and values of those before.

What is said next depends on what was said, so continuations grow one token at a time. With keys and
values kept, as in a model's own cached generation, no token is run twice, and gradients pass.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import ModelError
from tl_steer.models.calls import Call, Calls
from tl_steer.models.packed import Packed, Packing
from tl_steer.models.segment import Segment

_NAMES = ("past_key_values", "layer_past")  # of a block's argument


class Staged:
    """A packed segment that runs in stages.

    Args:
        bounds: where stages end.

    Raises:
        ModelError: these blocks keep no keys and values in transformers' way.

    Whether stages give what the whole row gives is for whoever makes one to ask
    (`refuse_other_results`, or by a pass of their own).
    """

    def __init__(self, segment: Packed, bounds: Sequence[int]) -> None:
        self.segment = segment
        self.spans = list(pairwise([0, *bounds]))
        used = {i: c for i, c in segment.calls.items() if segment.first <= i <= segment.last}
        named = [n for n in _NAMES if all(n in call.kwargs for call in used.values())]
        if not named:
            raise ModelError("These blocks take no cache by a name that transformers gives it.")
        self._cache = named[0]
        self._calls = [
            {i: _cut(c, a, b, bounds[-1]) for i, c in used.items()} for a, b in self.spans
        ]

    def calls(self, stage: int, cache: Any) -> Calls:
        """How blocks are called in a stage; the cache then holds its keys and values too."""
        kept = {self._cache: cache, "use_cache": True}
        return {i: replace(c, kwargs=c.kwargs | kept) for i, c in self._calls[stage].items()}

    def replay(
        self, stage: int, start: Float[Tensor, "row pos width"], cache: Any
    ) -> Float[Tensor, "row pos d_model"]:
        """One stage, unsteered."""
        return self.segment.replay(start, len(start), calls=self.calls(stage, cache))

    def refuse_other_results(self) -> None:
        """Raises ModelError where stages do not give what the whole row gives."""
        start, clean = self.segment.clean_start, self.segment.clean
        cache = new_cache()
        with torch.no_grad():
            try:
                parts = [
                    self.replay(i, start[:, a:b], cache) for i, (a, b) in enumerate(self.spans)
                ]
            except (RuntimeError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise ModelError(f"These blocks do not run in stages: {error}") from error
        off = float((torch.cat(parts, dim=1) - clean).norm() / clean.norm())
        if not off <= 1e-4:
            raise ModelError(f"In stages these blocks give something else (off by {off:.2g}).")


def staged_if_possible(segment: Segment, bounds: Sequence[int]) -> Staged | None:
    """A segment in stages, where it is packed and its blocks can run so."""
    if isinstance(segment, Packed):
        with suppress(ModelError):
            staged = Staged(segment, bounds)
            staged.refuse_other_results()
            return staged
    return None


def new_cache() -> Any:
    """An empty one, as transformers makes it."""
    from transformers import DynamicCache

    return DynamicCache()


def by_stage(packing: Packing, lengths: Sequence[int]) -> tuple[Packing, list[int]]:
    """A packing in another order: the prompts' own tokens (`lengths` of each) first, then the first
    token behind each of them, then the second; and where these stages end."""
    own = torch.tensor(lengths, dtype=torch.long, device=packing.prompt.device)
    stage = (packing.place - own[packing.prompt] + 1).clamp(min=0)
    order = stage.argsort(stable=True)
    moved = replace(
        packing,
        prompt=packing.prompt[order],
        place=packing.place[order],
        column=order.argsort()[packing.column],
    )
    return moved, torch.bincount(stage).cumsum(0).tolist()


def _cut(call: Call, a: int, b: int, n: int) -> Call:
    """A packed call for the row's tokens a to b, which see those before as well."""
    args = tuple(_part(value, a, b, n) for value in call.args)
    return replace(call, args=args, kwargs={k: _part(v, a, b, n) for k, v in call.kwargs.items()})


def _part(value: Any, a: int, b: int, n: int) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_part(v, a, b, n) for v in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 4 and value.shape[2:] == (n, n):
        return value[:, :, a:b, :b]
    if value.ndim >= 2 and value.shape[1] == n:
        return value[:, a:b]
    return value[a:b] if value.shape == (n,) else value
