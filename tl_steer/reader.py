r"""From activations to one number per request: detectors at every layer and phase, made comparable.

A request is scored where it speaks: at the *prompt's end* (the last prompt token) and at every
*generated token*, as it is read back in. Clean activations differ so much between these two phases,
and between layers, that each has detectors of its own. Then

1. a vector's scores are brought to mean 0 and deviation 1 on clean tokens of the phase
   (`Standard`);
2. a token's *known* part is the largest of them, its *unknown* part the anomaly detector's score;
3. each part is pooled along the tokens of a phase: its peak, or the peak of its CUSUM;
4. pooled parts become nats, $\log(1 + w / P(X \ge x))$, with P Laplace's distribution with their
   clean median and mean excess over it, w = .1 for the known and .001 for the unknown part;
5. nats of both parts and all layers are added up, and those of the prompt's end to those of every
   generated token; the request's statistic is the largest of these sums.

With w -> infinity the sum is Fisher's (1932) combination of tail probabilities, which is best if an
anomaly shows everywhere, and with w -> 0 the largest part rules. In between, w is the odds that
there is something to a part at all. A request that a vector steers is odd in both parts, and from
the prompt's end on; a clean outlier (an answer in another language, say) is as odd as any in one
part and hardly in the others, and would set the threshold for all if the largest part ruled.

Which vector it is can be asked of another detector than the one that raises the alarm, a *namer*:
its scores, as they are and where they are positive, are summed over everything that was scored.
White coordinates are best for seeing that something is odd, because directions in which clean
activations hardly vary count as much as others; but a response's share in these is mostly noise of
the few requests that it was measured on, and the wrong vector wins. A peak is won by whichever
vector happens to be near one token, a sum by one that is near most. A sum of positive scores only
grows while a request is under way, so p-values of names are on the safe side until it ends.

Steps 1 and 4 use clean requests that neither the detectors nor the calibration see. Everything is
calibrated at the end, as one statistic, so however crude these steps are, false alarms are right.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.detector import Detector
from tl_steer.fitted import Mapped, sharing
from tl_steer.scores import cusum

# Vectors' clean deviations are drawn together by as many imaginary tokens of median deviation.
_PRIOR_TOKENS = 20
# Parts are brought to one scale by clean requests above their median. Fewer of them, further out,
# would be more to the point and far too noisy: one part with a scale too small by chance is in
# charge of the threshold, and the others raise no alarm.
_TAIL_FROM = 0.5
# The odds w that there is something to the known part, and to the unknown one beside it: a request
# of a new and harmless kind is odd as well, and comes far more often than an attack that no vector
# knows. Alone, either part has the first.
_ODDS, _ODDS_BESIDE = 0.1, 0.001


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


@dataclass(frozen=True, eq=False)
class Standard:
    """A detector with one column per vector, in clean deviations above clean means."""

    detector: Detector
    shift: Float[Tensor, " vec"]
    inverse: Float[Tensor, " vec"]

    def __call__(self, activations: Float[Tensor, "token d"]) -> Float[Tensor, "token vec"]:
        return self.scaled(self.detector(activations))

    def scaled(self, scores: Float[Tensor, "token vec"]) -> Float[Tensor, "token vec"]:
        return (scores - self.shift) * self.inverse

    @classmethod
    def bare(cls, detector: Detector, vec: int) -> "Standard":
        """As the detector itself."""
        return cls(detector, torch.zeros(vec), torch.ones(vec))

    def on(self, clean: Float[Tensor, "token d"]) -> "Standard":
        """With shift and scale from clean tokens."""
        scores = self.detector(clean)
        if not bool(scores.isfinite().all()):
            return self  # a search looks at few vectors per token; cosines are alike as they are
        scores = scores.double()
        variance = scores.var(dim=0, correction=0)
        weight = len(clean) / (len(clean) + _PRIOR_TOKENS)
        drawn = weight * variance + (1 - weight) * variance.median()
        inverse = drawn.clamp_min(1e-20).rsqrt()
        return Standard(self.detector, scores.mean(dim=0).float(), inverse.float())


@dataclass(frozen=True, eq=False)
class Phase:
    """The detectors of one layer and phase; known or unknown may be missing, but not both. Without
    a namer, the known part names vectors as well."""

    known: Standard | None
    unknown: Detector | None
    namer: Detector | None

    def read(
        self, activations: Float[Tensor, "token d"]
    ) -> tuple[Float[Tensor, "token vec"], Float[Tensor, " token"]]:
        """Every vector's score, in clean deviations above its clean mean, and the unknown part,
        minus infinity without such a detector."""
        known, unknown = self.known, self.unknown
        pair = None if known is None else sharing(known.detector, unknown)
        if known is not None and pair is not None:
            mapped = pair[0].mapped(activations)
            return known.scaled(pair[0].of(mapped)), pair[1].of(mapped)[:, 0]
        n = len(activations)
        return (
            activations.new_empty(n, 0) if known is None else known(activations),
            activations.new_full((n,), -math.inf)
            if unknown is None
            else unknown(activations)[:, 0],
        )

    def joined(self) -> "Phase":
        """The same, in less memory: equal maps, as they come from a file or another device, are
        one again."""
        own, other = self.known and self.known.detector, self.unknown
        if not (isinstance(own, Mapped) and isinstance(other, Mapped)):
            return self
        if not (torch.equal(own.weights, other.weights) and torch.equal(own.bias, other.bias)):
            return self
        unknown = dataclasses.replace(other, weights=own.weights, bias=own.bias)
        return dataclasses.replace(self, unknown=unknown)

    def standardised(self, clean: Float[Tensor, "token d"]) -> "Phase":
        """With shift and scale from clean tokens."""
        return dataclasses.replace(self, known=self.known and self.known.on(clean))


@dataclass(frozen=True, eq=False)
class Tokens:
    """Both parts of every token, minus infinity where nothing was scored; and what vectors are
    ranked by: the namer's sum over layers and tokens, or without one the known part's peak."""

    parts: Float[Tensor, "part site batch pos"]
    names: Float[Tensor, "batch vec"]


@dataclass(frozen=True, eq=False)
class Reader:
    """Detectors by site and phase (prompt's end, generated), and the levels that make parts
    comparable: allowance (NaN for peaks), location, scale and odds."""

    phases: tuple[tuple[Phase, Phase], ...]
    levels: Float[Tensor, "site phase part four"]

    def tokens(
        self,
        activations: Sequence[Float[Tensor, "batch pos d"]],
        mask: Bool[Tensor, "batch pos"],
    ) -> Tokens:
        """Score every token: position 0 is the prompt's end, the others were generated."""
        batch, pos = mask.shape
        parts = torch.full((2, len(self.phases), batch, pos), -math.inf)
        names: Tensor | None = None
        for i, (phases, at_site) in enumerate(zip(self.phases, activations, strict=True)):
            for phase, span in zip(phases, (slice(0, 1), slice(1, pos)), strict=True):
                flat = at_site[:, span].float().flatten(0, 1)
                inside = mask[:, span]
                if not flat.shape[0]:
                    continue
                scores, anomaly = phase.read(flat)
                vectors, anomaly = _inside(scores, inside), anomaly.unflatten(0, inside.shape)
                parts[1, i, :, span] = anomaly.masked_fill(~inside, -math.inf)
                if vectors.shape[2]:
                    parts[0, i, :, span] = vectors.amax(dim=2)
                if phase.namer is None:
                    best = vectors.amax(dim=1)
                    names = best if names is None else torch.maximum(names, best)
                else:
                    evidence = _inside(phase.namer(flat), inside).clamp_min(0).sum(dim=1)
                    names = evidence if names is None else names + evidence
        assert names is not None
        return Tokens(parts, names)

    def nats(
        self, tokens: Tokens, mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "part batch pos"]:
        """Both parts at every token: sums over layers, of a generated token and the prompt's end.
        A request's own is the largest over its tokens, for each part and for their sum."""
        total = torch.zeros(2, *mask.shape)
        for part in (0, 1):
            for i in range(len(self.phases)):
                for j, span in enumerate((slice(0, 1), slice(1, mask.shape[1]))):
                    values, inside = tokens.parts[part, i, :, span], mask[:, span]
                    if not values.shape[1]:
                        continue
                    level = Level(*self.levels[i, j, part].tolist())
                    total[part, :, span] += level.nats(level.pool(values, inside))
        total[..., 1:] += total[..., :1]
        return total.masked_fill(~mask, -math.inf)

    def without_namer(self) -> "Reader":
        """The same for alarms, which need no names."""
        phases = tuple(
            (dataclasses.replace(prompt, namer=None), dataclasses.replace(generated, namer=None))
            for prompt, generated in self.phases
        )
        return dataclasses.replace(self, phases=phases)

    def scaled(
        self,
        activations: Sequence[Float[Tensor, "batch pos d"]],
        mask: Bool[Tensor, "batch pos"],
        pool: Pool,
    ) -> "Reader":
        """With standardised vectors and levels from clean requests."""
        phases = tuple(
            (
                prompt.standardised(at[:, :1][mask[:, :1]].float()),
                generated.standardised(at[:, 1:][mask[:, 1:]].float()),
            )
            for (prompt, generated), at in zip(self.phases, activations, strict=True)
        )
        reader = dataclasses.replace(self, phases=phases)
        tokens = reader.without_namer().tokens(activations, mask)
        levels = torch.empty(len(phases), 2, 2, 4)
        for i in range(len(phases)):
            for j, span in enumerate((slice(0, 1), slice(1, mask.shape[1]))):
                for part in (0, 1):
                    values, inside = tokens.parts[part, i, :, span], mask[:, span]
                    odds = _ODDS_BESIDE if part and phases[i][j].known else _ODDS
                    level = Level.of(values, inside, pool if j else Peak(), odds)
                    levels[i, j, part] = torch.tensor(dataclasses.astuple(level))
        return dataclasses.replace(reader, levels=levels)


def _inside(
    scores: Float[Tensor, "token vec"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos vec"]:
    """By request, minus infinity where nothing is scored."""
    by_request: Tensor = scores.unflatten(0, mask.shape)
    return by_request.masked_fill(~mask[..., None], -math.inf)


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
        """log(1 + w / P(X >= pooled)), for Laplace's distribution."""
        z = (pooled - self.location) / self.scale
        rare = torch.where(z < 0, -torch.log1p(-0.5 * z.clamp_max(0).exp()), z + math.log(2))
        return torch.logaddexp(rare + math.log(self.odds), torch.zeros(()))

    def nats_of(self, pooled: float) -> float:
        """`nats`, of one number."""
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


def moved(value: Any, device: torch.device) -> Any:
    """Detectors, phases or a reader with all tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(moved(item, device) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value)]
        return dataclasses.replace(value, **{n: moved(getattr(value, n), device) for n in names})
    return value
