r"""From activations to one number per request: detectors at every layer and phase, made comparable.

A request is scored where it speaks: at the *prompt's end* (the last prompt token) and at every
*generated token*, as it is read back in. Clean activations differ so much between these two phases,
and between layers, that each has detectors of its own. Then

1. a vector's scores are brought to mean 0 and deviation 1 on clean tokens of the phase
   (`Standard`);
2. a token's *known* parts are the largest of them, one part for each score that vectors are looked
   for with; its *unknown* part is the anomaly detector's score;
3. parts become nats, $\log(1 + w / P(X \ge x))$ (`statistics/level.py`), P being Laplace's
   distribution fitted to clean requests of the same category (`statistics/categories.py`), and
   w = .1;
4. nats of all parts and layers are added up; the request's statistic is the largest of these
   sums along its generated tokens. With `ends` = 1 those of the prompt's end are added to every
   token's, and it can raise the alarm alone, before anything is said.

With w -> infinity the sum is Fisher's (1932) combination of tail probabilities, which is best if an
anomaly shows everywhere, and with w -> 0 the largest part rules. In between, w is the odds that
there is something to a part at all. What a vector steers is odd in all parts; a clean outlier (an
answer in another language, say) is as odd as any in one and hardly in the others, and would set the
threshold for all if the largest part ruled. A harmless request in new words is odd at its end, and
its answer is not: that is why prompts' ends do not count unless told to.

Which vector it is can be asked of another detector than the one that raises the alarm, a *namer*:
its scores, as they are and where they are positive, are summed over everything that was scored.
White coordinates are best for seeing that something is odd, because directions in which clean
activations hardly vary count as much as others; but a response's share in these is mostly noise of
the few requests that it was measured on, and the wrong vector wins. A peak is won by whichever
vector happens to be near one token, a sum by one that is near most. A sum of positive scores only
grows while a request is under way, so p-values of names are on the safe side until it ends.

Steps 1 and 3 use clean requests that neither the detectors nor the calibration see. Everything is
calibrated at the end, as one statistic, so however crude these steps are, false alarms are right.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_steer.monitoring.detectors.detector import Detector
from tl_steer.monitoring.detectors.fitted import Mapped
from tl_steer.monitoring.statistics.categories import Categories
from tl_steer.monitoring.statistics.level import Level

# Vectors' clean deviations are drawn together by as many imaginary tokens of median deviation.
_PRIOR_TOKENS = 20
_ODDS = 0.1  # w
# Of positions: the prompt's end, and generated tokens.
_SPANS = slice(0, 1), slice(1, None)


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
        return cls(
            detector,
            torch.zeros(vec, dtype=torch.float32, device="cpu"),
            torch.ones(vec, dtype=torch.float32, device="cpu"),
        )

    def on(self, clean: Float[Tensor, "token d"]) -> "Standard":
        """With shift and scale from clean tokens."""
        scores = self.detector(clean)
        # Without tokens (a horizon of 0) there is nothing to learn, and a search looks at few
        # vectors per token, whose cosines are alike as they are.
        if not len(scores) or not bool(scores.isfinite().all()):
            return self
        scores = scores.double()
        variance = scores.var(dim=0, correction=0)
        weight = len(clean) / (len(clean) + _PRIOR_TOKENS)
        drawn = weight * variance + (1 - weight) * variance.median()
        inverse = drawn.clamp_min(1e-20).rsqrt()
        return Standard(self.detector, scores.mean(dim=0).float(), inverse.float())


@dataclass(frozen=True, eq=False)
class Phase:
    """The detectors of one layer and phase; known or unknown ones may be missing, but not both.
    Without a namer, the known ones name vectors as well."""

    known: tuple[Standard, ...]
    unknown: Detector | None
    namer: Detector | None

    def read(
        self, activations: Float[Tensor, "token d"]
    ) -> tuple[list[Float[Tensor, "token vec"]], Float[Tensor, " token"]]:
        """Every vector's scores, in clean deviations above their clean means, and the unknown part,
        minus infinity without such a detector."""
        maps: dict[tuple[int, int], Tensor] = {}

        def found(detector: Detector) -> Tensor:
            if not isinstance(detector, Mapped):
                return detector(activations)
            place = id(detector.weights), id(detector.bias)
            if place not in maps:
                maps[place] = detector.mapped(activations)
            return detector.of(maps[place])

        scores = [known.scaled(found(known.detector)) for known in self.known]
        if self.unknown is None:
            return scores, activations.new_full((len(activations),), -math.inf)
        return scores, found(self.unknown)[:, 0]

    def parts(
        self, scores: Sequence[Float[Tensor, "token vec"]], anomaly: Float[Tensor, " token"]
    ) -> dict[int, Float[Tensor, " token"]]:
        """The parts that there are, by their number, from what `read` gave."""
        found = {part: vectors.amax(dim=1) for part, vectors in enumerate(scores)}
        return found if self.unknown is None else found | {len(scores): anomaly}

    def joined(self) -> "Phase":
        """The same, in less memory: equal maps, as they come from a file or another device, are
        one again."""
        maps: list[Mapped] = []

        def one(detector: Any) -> Any:
            if not isinstance(detector, Mapped):
                return detector
            for own in maps:
                if torch.equal(own.weights, detector.weights) and torch.equal(
                    own.bias, detector.bias
                ):
                    return dataclasses.replace(detector, weights=own.weights, bias=own.bias)
            maps.append(detector)
            return detector

        known = (dataclasses.replace(own, detector=one(own.detector)) for own in self.known)
        return dataclasses.replace(self, known=tuple(known), unknown=one(self.unknown))

    def standardised(self, clean: Float[Tensor, "token d"]) -> "Phase":
        """With shift and scale from clean tokens."""
        return dataclasses.replace(self, known=tuple(known.on(clean) for known in self.known))


@dataclass(frozen=True, eq=False)
class Tokens:
    """All parts of every token, the unknown one last, minus infinity where nothing was scored; what
    vectors are ranked by: the namer's sum over layers and tokens, or without one the peak of the
    known scores' sum; each request's category; and at which tokens nothing was NaN or overflowed.
    """

    parts: Float[Tensor, "part site batch pos"]
    names: Float[Tensor, "batch vec"]
    category: Int[Tensor, " batch"]
    scorable: Bool[Tensor, "batch pos"]


@dataclass(frozen=True, eq=False)
class Reader:
    """Detectors by site and phase (prompt's end, generated), the categories of requests, told at
    the last site, and for each the levels that make parts comparable: location,
    scale and odds. `ends` is how much of the prompt's end is added to every token."""

    phases: tuple[tuple[Phase, Phase], ...]
    categories: Categories
    levels: Float[Tensor, "category site phase part three"]
    ends: float = 0.0

    @property
    def parts(self) -> int:
        """How many numbers there are of a token at a site."""
        return len(self.phases[0][0].known) + 1

    def tokens(
        self,
        activations: Sequence[Float[Tensor, "batch pos d"]],
        mask: Bool[Tensor, "batch pos"],
    ) -> Tokens:
        """Score every token: position 0 is the prompt's end, the others were generated."""
        parts = torch.full(
            (self.parts, len(self.phases), *mask.shape),
            -math.inf,
            dtype=torch.float32,
            device="cpu",
        )
        names: Tensor | None = None
        scorable = torch.ones_like(mask)
        for i, (phases, at_site) in enumerate(zip(self.phases, activations, strict=True)):
            for phase, span in zip(phases, _SPANS, strict=True):
                flat = at_site[:, span].float().flatten(0, 1)
                inside = mask[:, span]
                if not flat.shape[0]:
                    continue
                scores, anomaly = phase.read(flat)
                found = phase.parts(scores, anomaly)
                scorable[:, span] &= sound(flat, found.values()).unflatten(0, inside.shape)
                for part, values in found.items():
                    by_request = values.unflatten(0, inside.shape)
                    parts[part, i, :, span] = by_request.masked_fill(~inside, -math.inf)
                if phase.namer is None:
                    every = sum(scores, start=flat.new_zeros(())) if scores else flat[:, :0]
                    best = _inside(every, inside).amax(dim=1)
                    names = best if names is None else torch.maximum(names, best)
                else:
                    evidence = _inside(phase.namer(flat), inside).clamp_min(0).sum(dim=1)
                    names = evidence if names is None else names + evidence
        assert names is not None
        return Tokens(parts, names, self.categories.of(activations[-1][:, 0]), scorable)

    def nats(
        self, tokens: Tokens, mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "part batch pos"]:
        """All parts at every token: sums over layers, and as much of the prompt's end as counts. A
        request's own is the largest over its tokens, for each part and for their sum."""
        total = torch.zeros(self.parts, *mask.shape, dtype=torch.float32, device="cpu")
        for category, i, j, part in _places(self.levels):
            rows, span = tokens.category == category, _SPANS[j]
            level = Level(*self.levels[category, i, j, part].tolist())
            inside = tokens.parts[part, i, rows, span].masked_fill(~mask[rows, span], -math.inf)
            total[part, rows, span] += level.nats(inside)
        total[..., 0] *= self.ends
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
    ) -> "Reader":
        """With standardised vectors and levels from clean requests; vectors are standardised on all
        of them, levels are every category's own."""
        phases = tuple(
            (
                prompt.standardised(at[:, :1][mask[:, :1]].float()),
                generated.standardised(at[:, 1:][mask[:, 1:]].float()),
            )
            for (prompt, generated), at in zip(self.phases, activations, strict=True)
        )
        reader = dataclasses.replace(self, phases=phases)
        tokens = reader.without_namer().tokens(activations, mask)
        levels = torch.empty(
            len(self.categories), len(phases), 2, self.parts, 3, dtype=torch.float32, device="cpu"
        )
        for category, i, j, part in _places(levels):
            rows = tokens.category == category
            values, inside = tokens.parts[part, i, rows, _SPANS[j]], mask[rows, _SPANS[j]]
            level = Level.of(values, inside, _ODDS)
            levels[category, i, j, part] = torch.tensor(
                dataclasses.astuple(level), dtype=torch.float32, device="cpu"
            )
        return dataclasses.replace(reader, levels=levels)


def statistics(
    nats: Float[Tensor, "part batch pos"],
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """Every request's: the largest sum of all parts at a token, the same of the known ones, and the
    largest of the unknown one."""
    return nats.sum(dim=0).amax(dim=1), nats[:-1].sum(dim=0).amax(dim=1), nats[-1].amax(dim=1)


def sound(
    activations: Float[Tensor, "token d"], parts: Iterable[Float[Tensor, " token"]]
) -> Bool[Tensor, " token"]:
    """Which tokens can be scored: an activation that is NaN, infinite or too large to be squared
    may come out of a detector as an ordinary number."""
    fine = activations.square().sum(dim=1).isfinite()
    for values in parts:
        fine = fine & values.isfinite()
    return fine


def _places(levels: Float[Tensor, "category site phase part three"]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, levels.shape[:4]))


def _inside(
    scores: Float[Tensor, "token vec"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos vec"]:
    """By request, minus infinity where nothing is scored."""
    by_request: Tensor = scores.unflatten(0, mask.shape)
    return by_request.masked_fill(~mask[..., None], -math.inf)


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
