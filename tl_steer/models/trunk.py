"""One prompt with many continuations side by side, unsteered.

The prompt is run once for all of them, and a mask keeps each from seeing the others. A trunk runs
whole, where the continuations are known, or token by token, where each comes of the one before.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.models.calls import entering_first
from tl_steer.models.hooks import capturing
from tl_steer.models.model import HookedModel
from tl_steer.models.packed import Packed, Packing, packed_or_apart, packing_of
from tl_steer.models.segment import Segment
from tl_steer.models.staged import Staged, by_stage, new_cache, staged_if_possible
from tl_steer.models.tokens import TokenBatch


class Trunk:
    """One prompt with many continuations, unsteered, from the first block to a hook point.

    Args:
        begin: a hook point on the way, whose activations are kept.
        end: the last one.
    """

    def __init__(
        self, model: HookedModel, prompt: TokenBatch, along: int, begin: str, end: str
    ) -> None:
        self.model, self.prompt, self.begin, self.end = model, prompt, begin, end
        self.tokens = grown(prompt, prompt.ids.new_zeros(1, along - 1))
        self._segments: dict[int, Segment] = {}
        self._staged: dict[int, Staged | None] = {}

    def __call__(
        self, ids: Int[Tensor, "vec read"]
    ) -> tuple[Float[Tensor, "vec pos width"], Float[Tensor, "vec pos d_model"]]:
        """Activations at `begin` and at `end`."""
        entering = self.entering(ids)
        segment = self.segment(len(ids))
        if not isinstance(segment, Packed):
            return self.through(lambda: segment.replay(entering, len(ids)))
        packing = segment.packing
        both = self.through(lambda: segment.replay(packing.pack(entering), 1))
        return both[0][0][packing.column], both[1][0][packing.column]

    def through(self, replay: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """What a pass leaves at `begin` and at `end`."""
        if self.begin == self.end:
            end = replay()
            return end.flatten(2), end
        with capturing(self.model, [self.begin]) as seen:
            end = replay()
        return seen[self.begin].flatten(2), end

    def entering(self, ids: Int[Tensor, "vec read"]) -> Float[Tensor, "vec pos d_model"]:
        """What enters the first block."""
        return entering_first(self.model, grown(self.prompt.take([0] * len(ids)), ids))

    def segment(self, vec: int) -> Segment:
        """The row with `vec` continuations side by side, where this model's blocks allow it."""
        if vec not in self._segments:
            first, tokens = "blocks.0.hook_resid_pre", self.tokens
            packing, _ = self._order(vec)
            self._segments[vec] = packed_or_apart(self.model, tokens, first, self.end, packing)
        return self._segments[vec]

    def staged(self, vec: int) -> Staged | None:
        """That row token by token, where it can run so."""
        if vec not in self._staged:
            self._staged[vec] = staged_if_possible(self.segment(vec), self._order(vec)[1])
        return self._staged[vec]

    def _order(self, vec: int) -> tuple[Packing, list[int]]:
        length = int(self.prompt.lengths[0])
        packing = packing_of(self.tokens.take([0] * vec), shared=length)
        return by_stage(packing, [length] * vec)


class Walk:
    """A trunk that grows by one token of each continuation at a time.

    Attributes:
        last: what the prompt's last token leaves at the end, for every continuation.
    """

    def __init__(self, trunk: Trunk, staged: Staged, vec: int) -> None:
        self.trunk, self.staged, self.cache, self.stage = trunk, staged, new_cache(), 0
        self.read = trunk.tokens.ids.new_zeros(vec, len(staged.spans) - 1)
        a = staged.spans[0][1]
        with torch.no_grad():
            out = staged.replay(0, staged.segment.clean_start[:, :a], self.cache)
        self.last = out[0, -1].expand(vec, -1)

    def step(self, ids: Int[Tensor, " vec"]) -> tuple[Tensor, Tensor]:
        """Read one more token of every continuation: what it leaves at `begin` and at `end`."""
        self.read[:, self.stage] = ids
        self.stage += 1
        entering = self.trunk.entering(self.read)
        length = int(self.trunk.prompt.lengths[0])
        start = entering[:, length + self.stage - 1][None]
        with torch.no_grad():
            begin, end = self.trunk.through(
                lambda: self.staged.replay(self.stage, start, self.cache)
            )
        return begin[0], end[0]


def grown(tokens: TokenBatch, ids: Int[Tensor, "batch new"]) -> TokenBatch:
    """Prompts with something behind each."""
    lengths, new = tokens.lengths, ids.shape[1]
    width = tokens.ids.shape[1] + new
    at = torch.arange(width, device=tokens.ids.device)
    behind = (at >= lengths[:, None]) & (at < lengths[:, None] + new)
    longer = torch.nn.functional.pad(tokens.ids, (0, new))
    longer = longer.masked_scatter(behind, ids.to(longer))
    return replace(tokens, ids=longer, mask=at < lengths[:, None] + new)
