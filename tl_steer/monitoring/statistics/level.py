r"""How parts of a request's score become comparable: pooled along tokens, then rare or not among
clean ones.

A pooled part x becomes $\log(1 + w / P(X \ge x))$ nats, P being Laplace's distribution around the
clean median with the clean mean excess over it as its scale, and w the odds that there is something
to the part at all. `tl_steer.monitoring.reader` says why.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.monitoring.detectors.scores import cusum

# Parts are brought to one scale by clean requests above their median. Fewer of them, further out,
# would be more to the point and far too noisy: one part with a scale too small by chance is in
# charge of the threshold, and the others raise no alarm.
_TAIL_FROM = 0.5


@dataclass(frozen=True)
class Peak:
    """Pool a phase by its largest token: for behaviours that show somewhere."""

    def allowance(self, clean: Float[Tensor, " token"]) -> float:
        return math.nan


@dataclass(frozen=True)
class Cusum:
    """Pool a phase by the peak of its cumulative sum: for weak evidence on many tokens.

    Args:
        quantile: of clean token scores; what a token must exceed to add to the sum.
    """

    quantile: float = 0.8

    def allowance(self, clean: Float[Tensor, " token"]) -> float:
        return float(clean.double().quantile(self.quantile))


Pool = Peak | Cusum


@dataclass(frozen=True)
class Level:
    """How one part of one phase is pooled, its clean median and mean excess over it, and the odds
    that there is something to it."""

    allowance: float
    location: float
    scale: float
    odds: float

    def pool(
        self, values: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos"]:
        """What a token stands for: itself, or the sum up to it. Minus infinity where nothing was
        scored."""
        if not math.isnan(self.allowance):
            finite = values.masked_fill(~mask, 0.0)
            values = cusum(finite, allowance=self.allowance, mask=mask)
        return values.masked_fill(~mask, -math.inf)

    def step(self, total: float, value: float) -> float:
        """`pool`, one token at a time."""
        return value if math.isnan(self.allowance) else max(0.0, total + value - self.allowance)

    def nats(self, pooled: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """log(1 + w / P(X >= pooled)), for Laplace's distribution; 0 of minus infinity, where there
        is no detector."""
        z = (pooled - self.location) / self.scale
        rare = torch.where(z < 0, -torch.log1p(-0.5 * z.clamp_max(0).exp()), z + math.log(2))
        found = torch.logaddexp(rare + math.log(self.odds), torch.zeros(()))
        return found.masked_fill(pooled == -math.inf, 0.0)

    def nats_of(self, pooled: float) -> float:
        """`nats`, of one number."""
        if pooled == -math.inf:
            return 0.0
        z = (pooled - self.location) / self.scale
        rare = -math.log1p(-0.5 * math.exp(z)) if z < 0 else z + math.log(2)
        x = rare + math.log(self.odds)
        return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    @classmethod
    def of(
        cls,
        values: Float[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch pos"],
        pool: Pool,
        odds: float,
    ) -> "Level":
        """From clean requests: the mean excess over the median."""
        inside = values[mask & values.isfinite()]
        if not len(inside):
            return cls(math.nan, 0.0, 1.0, odds)
        bare = cls(pool.allowance(inside), 0.0, 1.0, odds)
        ends = bare.pool(values, mask).amax(dim=1)
        ends = ends[ends.isfinite()].double()
        location = float(ends.quantile(_TAIL_FROM))
        excess = ends[ends > location] - location
        scale = float(excess.mean()) if len(excess) else 0.0
        return cls(bare.allowance, location, max(scale, 1e-6 * (1 + abs(location))), odds)
