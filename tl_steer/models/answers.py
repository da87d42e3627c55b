"""Prompts that go on in many ways at once: every vector with its own continuation of each.

    trunk    one row a prompt    x x x x a a b b c c    first block .. source, unsteered
    branch   one row a vector    t t x x a a z z a a    source .. target, under the vector

A prompt's tokens are the same for all vectors in front of the source, and what prompts begin with
(t) is the same for all prompts of a vector, so each is run once: masks keep a continuation from
seeing another one, and a prompt from seeing the other (`models.packed`). How the blocks are called
depends on lengths alone, so it is learned once, and new continuations cost no new clean pass. Where
a model's blocks cannot be called so, rows run apart, and the model's own `generate` speaks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.hook_points.positions import Positions
from tl_steer.hook_points.site import Point
from tl_steer.models.draw import GREEDY, Draw
from tl_steer.models.model import HookedModel
from tl_steer.models.packed import Packed, common_beginning, packed_or_apart, packing_of
from tl_steer.models.rows import Row, by_row, continued
from tl_steer.models.segment import Segment
from tl_steer.models.staged import Staged, by_stage, new_cache, staged_if_possible
from tl_steer.models.tokens import TokenBatch
from tl_steer.models.trunk import Trunk, Walk, grown
from tl_steer.perturbations.perturbation import Perturbation

_ROWS = 64  # of generate, where that has to speak
Readout = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Spoken:
    """What a model says under every edit.

    Attributes:
        ids: the continuations.
        clean, steered: activations at the target, at the tokens that predict them: unsteered, and
            under the edit, with gradients.
    """

    ids: Int[Tensor, "vec batch along"]
    clean: Float[Tensor, "vec batch along d_model"]
    steered: Float[Tensor, "vec batch along d_model"]


class Answers:
    """One model on prompts with continuations of `along` tokens, from a source to a target.

    Args:
        tokens: the prompts.
        along: tokens of a continuation; the last is predicted, and never read.
        positions: the prompts' tokens that are edited.
        speaks: false for a model that only follows what another says: `grow` then knows nothing of
            the target.

    Raises:
        HookPointError, ModelError: as for `Segment`.
    """

    def __init__(
        self,
        model: HookedModel,
        tokens: TokenBatch,
        source: Point,
        target: Point,
        *,
        along: int,
        positions: Positions,
        speaks: bool = True,
    ) -> None:
        self.model, self.prompts, self.along = model, tokens, along
        self.tokens = grown(tokens, tokens.ids.new_zeros(len(tokens), along - 1))
        self._chosen = continued_choice(tokens, positions, self.tokens)
        packing = packing_of(self.tokens, shared=common_beginning(tokens))
        self._packing, bounds = by_stage(packing, tokens.lengths.tolist())
        if self._packing.agrees(self._chosen):
            self.segment = packed_or_apart(model, self.tokens, source, target, self._packing)
        else:
            self.segment = Segment(model, self.tokens, source, target)
        self.staged = staged_if_possible(self.segment, bounds) if speaks else None
        begin = self.segment.beginning
        end = self.segment.target.name if speaks else begin
        self._trunks = [
            Trunk(model, tokens.take([p]), along, begin, end) for p in range(len(tokens))
        ]
        first = tokens.lengths[:, None] - 1
        self._at = first + torch.arange(along, device=first.device)

    def speak(self, perturbation: Perturbation, read: Readout, draw: Draw = GREEDY) -> Spoken:
        """The model's own continuation under every edit.

        Args:
            read: from activations at the target to logits.
            draw: how tokens are chosen.
        """
        staged = [trunk.staged(len(perturbation)) for trunk in self._trunks]
        if self.staged is None or None in staged:
            ids = self._ids_apart(perturbation, read, draw)
            start, clean = self.grow(ids)
            return Spoken(ids, clean, self.run(perturbation, start))
        return self._speak_in_stages(perturbation, read, draw, self.staged)

    def _ids_apart(
        self, edits: Perturbation, read: Readout, draw: Draw
    ) -> Int[Tensor, "vec batch along"]:
        """What is said, where rows cannot run in stages: by the model's own generation, or, since
        that draws as it likes, by a whole pass for every token."""
        if draw.temperature == 0:
            return generated(self.model, edits, self.prompts, self.along)
        ids = self.tokens.ids.new_zeros(len(edits), len(self.prompts), self.along)
        with torch.no_grad():
            for place in range(self.along):
                steered = self.run(edits, self.grow(ids)[0])[:, :, place]
                ids[:, :, place] = draw(read(steered), place)
        return ids

    def _speak_in_stages(
        self, edits: Perturbation, read: Readout, draw: Draw, staged: Staged
    ) -> Spoken:
        vec, cache = len(edits), new_cache()
        walks = [
            Walk(trunk, own, vec)
            for trunk in self._trunks
            if (own := trunk.staged(vec)) is not None
        ]
        first = self._packing.column.gather(1, self._at[:, :1])[:, 0]
        start = self.segment.clean_start[:, : staged.spans[0][1]].repeat(vec, 1, 1)
        ids: list[Tensor] = []
        clean = [torch.stack([walk.last for walk in walks], dim=1)]
        steered = [self._stage(edits, start, 0, cache)[:, first]]
        while True:
            with torch.no_grad():
                ids.append(draw(read(steered[-1]), len(ids)))
            if len(ids) == self.along:
                break
            both = [walk.step(ids[-1][:, p]) for p, walk in enumerate(walks)]
            start = torch.stack([begin for begin, _ in both], dim=1)
            clean.append(torch.stack([end for _, end in both], dim=1))
            steered.append(self._stage(edits, start, len(ids), cache))
        return Spoken(
            torch.stack(ids, dim=2), torch.stack(clean, dim=2), torch.stack(steered, dim=2)
        )

    def _stage(self, edits: Perturbation, start: Tensor, stage: int, cache: Any) -> Tensor:
        assert self.staged is not None
        a, b = self.staged.spans[stage]
        prompt = self._packing.pack(self._chosen)[:, a:b]
        calls = self.staged.calls(stage, cache)
        return self.segment.run_on(start, edits, prompt, calls=calls)[:, 0]

    def grow(
        self, ids: Int[Tensor, "vec batch along"]
    ) -> tuple[Float[Tensor, "vec batch pos width"], Float[Tensor, "vec batch along d_model"]]:
        """The unsteered model on every vector's own continuations: activations where the segment
        begins, and at the target, at the tokens that predict the continuation."""
        with torch.no_grad():
            found = [trunk(ids[:, p, :-1]) for p, trunk in enumerate(self._trunks)]
        width = self.tokens.ids.shape[1]
        start = torch.stack([_padded(start, width) for start, _ in found], dim=1)
        return start, torch.stack([end[:, -self.along :] for _, end in found], dim=1)

    def run(
        self, edits: Perturbation, start: Float[Tensor, "vec batch pos width"]
    ) -> Float[Tensor, "vec batch along d_model"]:
        """Activations at the target under every edit, with gradients, at the tokens that predict
        the continuation."""
        if not isinstance(self.segment, Packed):
            out = self.segment.run_on(start.flatten(0, 1), edits, self._chosen)
            return out[:, torch.arange(len(self.prompts), device=out.device)[:, None], self._at]
        packing = self._packing
        rows = start[:, packing.prompt, packing.place]
        out = self.segment.run_on(rows, edits, packing.pack(self._chosen))
        return out[:, 0][:, packing.column.gather(1, self._at)]


def generated(
    model: HookedModel, edits: Perturbation, tokens: TokenBatch, n: int
) -> Int[Tensor, "vec batch n"]:
    """Greedy continuations under every edit, by the model's own generation."""

    def work(ids: Tensor, rows: list[Row]) -> list[Tensor]:
        return list(continued(model, ids, n))

    with torch.no_grad():
        found = by_row(model, edits, tokens, work, batch_rows=_ROWS)
    return torch.stack(
        [
            torch.stack([_filled(found[Row(v, p)], n) for p in range(len(tokens))])
            for v in range(len(edits))
        ]
    )


def unsteered_answers(model: HookedModel, tokens: TokenBatch, n: int) -> Int[Tensor, "batch n"]:
    """Greedy continuations of every prompt as it is."""
    with torch.no_grad():
        found = [continued(model, row[None], n)[0] for row in tokens.rows()]
    return torch.stack([_filled(row, n) for row in found])


def continued_choice(
    tokens: TokenBatch, positions: Positions, longer: TokenBatch
) -> Bool[Tensor, "batch pos"] | Float[Tensor, "batch pos"]:
    """The edited tokens of prompts with something behind each."""
    new = longer.ids.shape[1] - tokens.ids.shape[1]
    prompt = torch.nn.functional.pad(tokens.mask, (0, new))
    return positions.along(prompt, longer.mask & ~prompt, tokens.has_bos)


def _padded(values: Float[Tensor, "vec pos d"], width: int) -> Float[Tensor, "vec width d"]:
    return torch.nn.functional.pad(values, (0, 0, 0, width - values.shape[1]))


def _filled(row: Int[Tensor, " some"], n: int) -> Int[Tensor, " n"]:
    return torch.nn.functional.pad(row, (0, n - len(row)), value=int(row[-1]))
