r"""How parts of a request's score become comparable: rare or not among clean ones.

A part x becomes $\log(1 + w / P(X \ge x))$ nats, P being Laplace's distribution around the
clean median with the clean mean excess over it as its scale, and w the odds that there is something
to the part at all. `tl_steer.monitoring.reader` says why.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Parts are brought to one scale by clean requests above their median. Fewer of them, further out,
# would be more to the point and far too noisy: one part with a scale too small by chance is in
# charge of the threshold, and the others raise no alarm.
_TAIL_FROM = 0.5
_MOST = 1e30  # nats, so that sums of them are finite in float32
# Of the median. Narrower than this there is nothing but rounding, which would become nats.
_NARROWEST = 1e-3


@dataclass(frozen=True)
class Level:
    """Of one part of one phase: its clean median, its mean excess over that, and the odds that
    there is something to it."""

    location: float
    scale: float
    odds: float

    def nats(self, part: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """log(1 + w / P(X >= part)), for Laplace's distribution; 0 of minus infinity, where there
        is no detector. A part that is NaN stays so."""
        z = (part - self.location) / self.scale
        rare = torch.where(z < 0, -torch.log1p(-0.5 * z.clamp_max(0).exp()), z + math.log(2))
        found = torch.logaddexp(
            rare + math.log(self.odds), torch.zeros((), dtype=torch.float32, device="cpu")
        ).clamp_max(_MOST)
        return found.masked_fill(part == -math.inf, 0.0)

    def nats_of(self, part: float) -> float:
        """`nats`, of one number."""
        if part == -math.inf:
            return 0.0
        z = (part - self.location) / self.scale
        rare = -math.log1p(-0.5 * math.exp(z)) if z < 0 else z + math.log(2)
        x = rare + math.log(self.odds)
        return min(max(x, 0.0) + math.log1p(math.exp(-abs(x))), _MOST)

    @classmethod
    def of(
        cls, values: Float[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], odds: float
    ) -> "Level":
        """From clean requests: the mean excess over the median of their largest tokens."""
        inside = values.masked_fill(~mask, -math.inf)
        peaks = inside.amax(dim=1) if inside.shape[1] else inside.flatten()
        peaks = peaks[peaks.isfinite()].double()
        if not len(peaks):  # a horizon of 0, or no such detector
            return cls(0.0, 1.0, odds)
        location = float(peaks.quantile(_TAIL_FROM))
        excess = peaks[peaks > location] - location
        scale = float(excess.mean()) if len(excess) else 0.0
        return cls(location, max(scale, _NARROWEST * (1 + abs(location))), odds)
