"""What the rows of `gpu.py` share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from gpu_models import SHAPES, TINY, Made, Shape, made, room

Figures = dict[str, Any]
BF16, FP32 = torch.bfloat16, torch.float32


@dataclass
class Bench:
    """What rows share.

    Attributes:
        rates: the card's measured matrix-product rates by name, in FLOP/s.
        left: seconds that the running row may still take.
        reached: total objectives that others are held against.
    """

    device: str
    tiny: bool
    rates: dict[str, float] = field(default_factory=dict)
    left: Callable[[], float] = lambda: 60.0
    reached: dict[str, float] = field(default_factory=dict)
    _held: tuple[Any, Made | None] = (None, None)

    def shape(self, name: str) -> Shape:
        return (TINY if self.tiny else SHAPES)[name]

    def many(self, n: int) -> int:
        """As many vectors, or the few of a dry run."""
        return max(2, n // 32) if self.tiny else n

    def made(self, name: str, dtype: torch.dtype) -> Made:
        """That model; the one before goes, since two need not fit."""
        if self._held[0] != (name, dtype):
            self._held = (None, None)
            room(self.device)
            self._held = ((name, dtype), made(self.shape(name), dtype, self.device))
        assert self._held[1] is not None
        return self._held[1]

    def figures(self, of: Shape, seconds: float, n: int, tokens: int, rate: str) -> Figures:
        """Of a step of `n` vectors: how many a second, and how much of the card that takes."""
        flops = of.flops(n, tokens)
        share = (
            {"share": round(flops / seconds / self.rates[rate], 3)} if rate in self.rates else {}
        )
        return {
            "step_s": round(seconds, 5),
            "vector_steps_s": round(n / seconds, 1),
            "tflops": round(flops / seconds / 1e12, 2),
            **share,
        }
