"""What prompts begin with, run once under every edit, for one batch of prompts after another.

    stem    vec rows   t t t t                      once: its keys and values are kept
    rest    vec rows           a a a b b c c c      every batch that begins so

Under causal attention the tokens that all prompts begin with need nothing of what stands behind
them, so batches that begin alike, as a chat template makes them, share that work too.
"""

from typing import Any

import torch
from torch import Tensor

from tl_steer.models.packed import Packed
from tl_steer.models.staged import Staged, new_cache
from tl_steer.perturbations.perturbation import Perturbation


class Stem:
    """The keys and values of one beginning under all edits.

    Args:
        edits: of which a part is run at a time.
        most: bytes that may be kept; where they would be more, the beginning is run every time.
        tokens_per_pass: when it is run for all edits.
    """

    def __init__(self, edits: Perturbation, *, most: int, tokens_per_pass: int) -> None:
        self.edits, self.most, self.tokens_per_pass = edits, most, tokens_per_pass
        self._of: tuple[Any, ...] = ()
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def cache(self, rest: "Rest", rows: slice) -> Any:
        """A cache that holds the beginning under some edits. Those that hold the same beginning,
        steered at the same tokens, share the work."""
        # All of it, not the longest that fits: what a batch gives depends on that batch alone.
        if rest.begins != self._of:
            self._of, self._kept = (), {}
            self._kept = self._all(rest)
            self._of = rest.begins
        if not self._kept:
            return rest.begin(self.edits, rows)
        cache = new_cache()
        for layer, (keys, values) in self._kept.items():
            cache.update(keys[rows], values[rows], layer)
        return cache

    def _all(self, rest: "Rest") -> dict[int, tuple[Tensor, Tensor]]:
        """Under all edits; nothing where that is too much."""
        n, some = len(self.edits), max(1, self.tokens_per_pass // rest.bound)
        parts: list[dict[int, tuple[Tensor, Tensor]]] = []
        for first in range(0, n, some):
            rows = slice(first, min(n, first + some))
            held = _held(rest.begin(self.edits, rows))
            size = sum(x.numel() * x.element_size() for pair in held.values() for x in pair)
            if not held or size * n > self.most * (rows.stop - rows.start):
                return {}
            parts.append(held)
        return {
            layer: (
                torch.cat([p[layer][0] for p in parts]),
                torch.cat([p[layer][1] for p in parts]),
            )
            for layer in parts[0]
        }


class Rest:
    """A packed batch of prompts behind its beginning.

    Args:
        bound: how many tokens the beginning has.
        chosen: the tokens of the row that are steered, or how strongly.

    Raises:
        ModelError: these blocks keep no keys and values in transformers' way.
    """

    def __init__(self, segment: Packed, bound: int, chosen: Tensor) -> None:
        self.segment, self.bound, self.chosen = segment, bound, chosen
        self.staged = Staged(segment, [bound, len(segment.packing)])
        ids = segment.tokens.ids[0, :bound].tolist()
        self.begins = (segment.source.name, *ids, *chosen[0, :bound].tolist())

    def begin(self, edits: Perturbation, rows: slice) -> Any:
        """The beginning under some edits, as a new cache."""
        cache = new_cache()
        self._stage(0, edits, rows, cache)
        return cache

    def run(self, stem: Stem, rows: slice) -> Tensor:
        """Activations at the target, `[vec 1 pos d_model]`, of the tokens behind the beginning."""
        return self._stage(1, stem.edits, rows, stem.cache(self, rows))

    def _stage(self, stage: int, edits: Perturbation, rows: slice, cache: Any) -> Tensor:
        own = edits.select(rows).to(self.segment.clean.device)
        a, b = self.staged.spans[stage]
        start = self.segment.clean_start[:, a:b].repeat(len(own), 1, 1)
        calls = self.staged.calls(stage, cache)
        return self.segment.run_on(start, own, self.chosen[:, a:b], calls=calls)


def _held(cache: Any) -> dict[int, tuple[Tensor, Tensor]]:
    """Keys and values by layer; none where this transformers' cache does not show them."""
    layers = enumerate(getattr(cache, "layers", ()))
    return {i: (x.keys, x.values) for i, x in layers if isinstance(x.keys, Tensor)}
