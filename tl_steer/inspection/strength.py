"""What vectors do on one prompt as they get stronger and weaker: a value that needs no model."""

import math
from dataclasses import dataclass
from typing import Any

from tl_steer.banks.origin import UNTOLD, Origin
from tl_steer.errors import SettingError
from tl_steer.files.record import Record
from tl_steer.files.tables import Sheet, number, shorten
from tl_steer.radii.band import GIBBERISH, LOOP, incoherence, reaches


@dataclass(frozen=True)
class Strength:
    """One vector at one strength.

    Attributes:
        vector: its number in the bank; of a random vector, its number in the control's.
        control: whether it is one of the random vectors.
        scale: how many times the vector was added; below 0 its opposite acts, 0 is unsteered.
        kl: KL(steered || unsteered) of the next token at every token of the prompt, in nats.
        top: the likeliest tokens behind the prompt: (text, probability, probability unsteered).
        text: the greedy continuation.
        surprise: nats per token of the continuation under the unsteered model, above those of its
            own greedy continuation; `repetition` is the share of token pairs it has had before
            (`tl_steer.radii.band`).
        changed: whether its tokens differ from the unsteered continuation's.
    """

    vector: int
    control: bool
    scale: float
    kl: tuple[float, ...]
    top: tuple[tuple[str, float, float], ...]
    text: str
    surprise: float
    repetition: float
    changed: bool


@dataclass(frozen=True, repr=False)
class Strengths(Record):
    """Vectors of a bank on one prompt at several strengths; `strengths` makes it.

    Attributes:
        prompt, tokens: what was run, and its tokens as text.
        source, target: where vectors were added, and where their effect was maximised.
        origin: which bank, and which model.
        vectors: their numbers in the bank; `labels` are its notes on them.
        scales: the strengths, from the lowest.
        steps: every vector at every strength, then every random vector.
        unsteered: the model as it is.
        fluent, salad: surprise of text drawn from the model and of the same text shuffled: the
            scale of surprise, see `tl_steer.radii.band`.
        settings: how it was measured.
    """

    prompt: str
    tokens: tuple[str, ...]
    source: str
    target: str
    vectors: tuple[int, ...]
    labels: tuple[str, ...]
    scales: tuple[float, ...]
    steps: tuple[Strength, ...]
    unsteered: Strength
    fluent: float
    salad: float
    settings: dict[str, Any]
    origin: Origin = UNTOLD

    def __len__(self) -> int:
        return len(self.vectors)

    def of(self, vector: int) -> tuple[Strength, ...]:
        """A vector at every strength, from the lowest.

        Raises:
            SettingError: it was not measured.
        """
        if vector not in self.vectors:
            there = ", ".join(map(str, self.vectors))
            raise SettingError(
                f"Vector {vector} was not measured at several strengths; there are {there}. Add "
                f"its row: strengths(model, bank, prompt, vectors=[...])."
            )
        return tuple(one for one in self.steps if one.vector == vector and not one.control)

    def random(self, scale: float) -> tuple[Strength, ...]:
        """The random vectors at one of the `scales`."""
        return tuple(one for one in self.steps if one.control and one.scale == scale)

    def incoherence(self, one: Strength) -> float:
        """0: as fluent as the model's own text; 1: word salad."""
        return incoherence(one.surprise, fluent=self.fluent, salad=self.salad)

    def gibberish(self, one: Strength) -> float:
        """How far a continuation is towards gibberish, which begins at 1: a quarter of the way
        from the model's own text to word salad, or half of its token pairs repeated."""
        return max(self.incoherence(one) / GIBBERISH, one.repetition / LOOP)

    def ends(self, vector: int, *, sign: int = 1) -> tuple[float, float]:
        """Where a vector's text leaves the unsteered one, and where it turns into gibberish: two
        strengths without their sign, by interpolation in their logarithm between those measured.

        Infinity where it does not up to the largest; a first strength that has already left gives
        itself. One greedy text a strength is little to go by: `dose_response` measures many.

        Raises:
            SettingError: it was not measured.
        """
        steps = sorted(
            (one for one in self.of(vector) if one.scale * sign > 0), key=lambda s: abs(s.scale)
        )
        if not steps:
            return math.inf, math.inf
        at = [abs(one.scale) for one in steps]
        leaves = reaches(at, [float(one.changed) for one in steps], 0.5)
        return leaves, reaches(at, [self.gibberish(one) for one in steps], 1.0)

    def table(self, *, width: int = 60) -> Sheet:
        """One row for each vector and strength."""
        rows = [
            (
                str(vector),
                f"{one.scale:+g}",
                number(one.kl[-1]),
                number(one.surprise),
                f"{one.repetition:.0%}",
                shorten(one.text, width),
            )
            for vector in self.vectors
            for one in self.of(vector)
        ]
        columns = ("#", "strength", "KL", "surprise", "repeated", "text")
        note = (
            f"{self.origin.model}, vectors added at {self.source}; KL in nats behind the prompt. "
            "Surprise in nats per token above the unsteered continuation's: "
            f"{self.fluent:.2f} for text sampled from the model, {self.salad:.2f} for it shuffled."
        )
        return Sheet("Strengths", columns, tuple(rows), note)
