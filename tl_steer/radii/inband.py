"""A radius rule made of dose and response: as far as steered text holds together."""

import bisect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_steer.errors import PromptError, SettingError
from tl_steer.files.progress import Show, unseen
from tl_steer.files.signatures import typed_fields
from tl_steer.models.caches import refuse_no_text, why_no_text
from tl_steer.models.segment import Segment
from tl_steer.models.tokens import TokenBatch, refuse_beyond_context
from tl_steer.objectives.divergence import Displacement
from tl_steer.objectives.objective import Objective
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.sphere import random_on_sphere, to_sphere
from tl_steer.radii.band import Band, DoseResponse, share_of
from tl_steer.radii.dose import Group, Sweep
from tl_steer.radii.rules import Calibrated, RadiusRule


@typed_fields
@dataclass(frozen=True)
class InBand:
    """The highest radius at which steered text still holds together, found by trying.

    A few directions at the source, sharpened by power iteration as those of trained vectors will
    be, steer the segment's own prompts at radii around the calibrated one. (Random directions would
    not do: they leave text alone at radii where trained ones have long destroyed it.) See
    `DoseResponse.band` for what counts as paraphrase and gibberish.

    The result lies between two neighbours of the radii, so not all of them are read: the two at the
    anchor first, then smaller ones while the smallest that was read is gibberish, or larger ones
    while none is. That gives what all of them give (`measure`), wherever gibberish, once it begins,
    does not end again below the radii that were read.
    No text at a radius is left out by a sequential test such as Wald's: the result is interpolated
    between quantiles at the two neighbours, and those take all texts.

    Args:
        anchor: the rule that gives the middle of the radii.
        factors: the radii that may be tried, in anchors.
        n: how many directions.
        steps: steps of power iteration from a random start.
        tolerated: the share of their continuations that may be gibberish.
        place: where in the band, from its lowest (0) to its highest radius (1), on a log scale.
        max_prompts: only the first so many of the segment's prompts are continued.
        max_new_tokens: length of the continuations.
        batch_rows: rows per batch.

    Where the model cannot generate, or there is no band, the anchor or the end nearest to a band
    is used, with a warning. It asks for text: on a model or prompts whose text does not matter (a
    toy, a single token's answer), use `Calibrated` or `ShareOfNorm`. It steers at every token, so
    it comes out low for vectors that are added at few.
    """

    anchor: RadiusRule = Calibrated()  # noqa: RUF009 (frozen)
    factors: tuple[float | int, ...] = (0.25, 0.5, 1.0, 2.0)
    n: int = 6
    steps: int = 4
    tolerated: float | int = 0.25
    place: float | int = 1
    max_prompts: int = 2
    max_new_tokens: int = 16
    batch_rows: int = 64

    def __post_init__(self) -> None:
        if not (self.factors and all(0 < f < math.inf for f in self.factors)):
            raise SettingError(f"InBand(factors={self.factors}): expected numbers above 0.")
        counts = (self.n, self.max_prompts, self.max_new_tokens, self.batch_rows)
        if min(counts) < 1 or self.steps < 0:
            raise SettingError(
                f"{self}: expected n, prompts, tokens and rows of at least 1, steps >= 0."
            )
        if not (0 <= self.place <= 1 and 0 <= self.tolerated < 1):
            raise SettingError(f"{self}: expected place from 0 to 1, tolerated below 1.")

    def __call__(
        self,
        segment: Segment,
        measured: Bool[Tensor, "batch pos"],
        seed: int,
        show: Show = unseen,
    ) -> float:
        reason = why_no_text(segment.model)
        if not reason:
            self._refuse_long(segment)
        radius = self.anchor(segment, measured, seed)
        if reason:
            warnings.warn(
                f"Its text cannot be judged: {reason} Using the radius of {self.anchor}, "
                f"{radius:.3g}.",
                stacklevel=2,
            )
            return radius
        show(said=f"about {radius:.3g} by {type(self.anchor).__name__}")
        found = self._searched(segment, measured, seed, radius, show)
        return self._within(found.band(tolerated=self.tolerated))

    def _refuse_long(self, segment: Segment) -> None:
        """Before any work: continuations that do not fit behind the prompts."""
        try:
            knob = "InBand(max_new_tokens)"
            refuse_beyond_context(
                segment.model, self._read(segment), self.max_new_tokens, knob=knob
            )
        except PromptError as error:
            raise PromptError(
                f"{error} InBand, which radius='auto' stands for, continues prompts; a number or "
                "Calibrated() does without."
            ) from None

    def _read(self, segment: Segment) -> TokenBatch:
        """The prompts that are continued."""
        return segment.tokens.take(range(min(self.max_prompts, len(segment.tokens))))

    def measure(
        self, segment: Segment, measured: Bool[Tensor, "batch pos"], seed: int, anchor: float | int
    ) -> DoseResponse:
        """Dose and response at all the radii."""
        return self._readings(segment, measured, seed, anchor)(self._radii(anchor))

    def _radii(self, anchor: float | int) -> list[float]:
        return [anchor * factor for factor in sorted(self.factors)]

    def _readings(
        self, segment: Segment, measured: Tensor, seed: int, anchor: float | int
    ) -> Callable[[Sequence[float]], DoseResponse]:
        """What reads the directions' texts at some radii."""
        refuse_no_text(segment.model)
        self._refuse_long(segment)
        unit = self._directions(segment, measured, seed, float(anchor))
        sweep = Sweep(
            segment.model,
            self._read(segment),
            segment.source_norm(),
            max_new_tokens=self.max_new_tokens,
            seed=seed,
            batch_rows=self.batch_rows,
        )
        edits, groups = Additive(segment.source, unit, radius=1.0), [Group(range(self.n), (1,))]
        return lambda radii: sweep(radii, edits, groups)

    def _searched(
        self, segment: Segment, measured: Tensor, seed: int, anchor: float, show: Show
    ) -> DoseResponse:
        """Dose and response at as many of the radii as the result takes: two neighbours about the
        anchor, then smaller or larger ones, one at a time."""
        radii, read = self._radii(anchor), self._readings(segment, measured, seed, anchor)
        first = max(0, bisect.bisect_left(radii, anchor) - 1)
        low, high = first, min(first + 2, len(radii))
        most = len(radii) if self.place < 1 else high - low + max(low, len(radii) - high)
        found = read(radii[low:high])
        show(completed=high - low, total=most, said=self._told(found))
        while new := self._next(found, low, high, len(radii)):
            low, high = min(low, new[0]), max(high, new[-1] + 1)
            further = read([radii[i] for i in new])
            show(completed=high - low, total=most, said=self._told(further))
            found = replace(found, doses=(*found.doses, *further.doses))
        return found

    def _next(self, found: DoseResponse, low: int, high: int, n: int) -> range:
        """Which radius has to be read as well, behind those from `low` to `high`; or none."""
        leaves, babbles = found.ends(tolerated=self.tolerated)
        wanted = babbles if self.place == 1 else min(leaves, babbles)
        if wanted <= found.radii[0] and low > 0:
            return range(low - 1, low)
        return range(high, min(high + 1, n)) if babbles == math.inf else range(0)

    def _told(self, found: DoseResponse) -> str:
        shares = (
            (radius, share_of(found.spoilt(dose) >= 1 for dose in found.at(radius)))
            for radius in found.radii
        )
        return "; ".join(f"{radius:.3g}, {share:.0%} gibberish" for radius, share in shares)

    def _directions(
        self, segment: Segment, measured: Tensor, seed: int, radius: float
    ) -> Float[Tensor, "vec width"]:
        generator = torch.Generator().manual_seed(seed)
        width = segment.source.width
        vectors = random_on_sphere(self.n, width, radius=radius, generator=generator)
        vectors = vectors.to(segment.clean_source.device)
        objective = Objective(segment, Displacement(), measured)
        for _ in range(self.steps):
            gradient = objective(Additive(segment.source, vectors, radius=radius)).gradients[0]
            vectors = to_sphere(gradient, radius)
        return vectors.float().cpu()

    def _within(self, band: Band) -> float:
        low, high = math.log(band.lowest), math.log(band.highest)
        return math.exp(low + self.place * (high - low))


# What radius="auto" means.
AUTO = InBand()
