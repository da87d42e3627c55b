r"""What a dose-response sweep found, and the band of radii between paraphrase and gibberish.

A *dose* is one vector at one radius on one prompt. **Paraphrase**: the model goes on as it would
have anyway. **Gibberish**: it no longer writes what it could have written by itself, or it loops.
Both ends are judged by the unsteered model, on scales that it sets itself:

* *surprise*: nats per token of a continuation under the unsteered model, less those of its own
  greedy continuation. That is a log-ratio of perplexities.
* `fluent`: the surprise of text drawn from the unsteered model at temperature 1. By definition the
  model finds nothing wrong with it.
* `salad`: the surprise of the same tokens in shuffled order.
* *incoherence*: $(\text{surprise}-\text{fluent})/(\text{salad}-\text{fluent})$. At 0 a continuation
  is as good as the model's own text, at 1 it is word salad.
* *repetition*: the share of a continuation's token pairs that it has had before. A loop is no
  surprise to a language model, so surprise alone would call it fluent.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tl_steer.banks.origin import UNTOLD, Origin
from tl_steer.errors import SettingError
from tl_steer.files.record import Record
from tl_steer.files.tables import Sheet, number, shorten

# A continuation is gibberish from here: a quarter of the way to word salad, or half of its token
# pairs repeated.
GIBBERISH, LOOP = 0.25, 0.5


@dataclass(frozen=True)
class Dose:
    """One vector at one radius on one prompt.

    Attributes:
        radius: norm of what was added; `share` is the same over the source's median norm.
        sign: 1, or -1 for the vector's opposite.
        vector: its number in the bank; in the controls, of the random vectors.
        prompt: index of the prompt.
        control: whether this is one of the random vectors.
        kl: KL(steered || unsteered) of the next token after the prompt, in nats.
        surprise, repetition: see `tl_steer.radii.band`; 0 for a continuation that ends at once.
        changed: whether greedy decoding gives other tokens than without steering.
        text: the continuation.
    """

    radius: float
    share: float
    sign: int
    vector: int
    prompt: int
    control: bool
    kl: float
    surprise: float
    repetition: float
    changed: bool
    text: str


@dataclass(frozen=True)
class Band:
    """Radii from `lowest` to `highest`. `note` says what is wrong with an empty or open band."""

    lowest: float
    highest: float
    note: str = ""


@dataclass(frozen=True, repr=False)
class DoseResponse(Record):
    """How much of what at which radius; `dose_response` makes it.

    Attributes:
        doses: all that was measured.
        source: the hook point.
        norm: median clean norm of the residual stream there; radius = share * norm.
        fluent, salad: the scale of surprise, see `tl_steer.radii.band`.
        unsteered: the unsteered continuation of every prompt.
        settings: how it was measured.
        origin: the bank and the model.
    """

    doses: tuple[Dose, ...]
    source: str
    norm: float
    fluent: float
    salad: float
    prompts: tuple[str, ...]
    unsteered: tuple[str, ...]
    settings: dict[str, Any]
    origin: Origin = UNTOLD

    @property
    def radii(self) -> tuple[float, ...]:
        return tuple(sorted({dose.radius for dose in self.doses}))

    def at(
        self, radius: float | int, *, control: bool = False, sign: int | None = None
    ) -> tuple[Dose, ...]:
        """The doses at one of the `radii`; of the bank, or of the random vectors."""
        return tuple(
            dose
            for dose in self.doses
            if dose.radius == radius and dose.control == control and sign in (None, dose.sign)
        )

    def incoherence(self, dose: Dose) -> float:
        """0: as fluent as the model's own text; 1: word salad."""
        return incoherence(dose.surprise, fluent=self.fluent, salad=self.salad)

    def spoilt(
        self, dose: Dose, *, incoherence: float | int = GIBBERISH, repetition: float | int = LOOP
    ) -> float:
        """How far a continuation is towards gibberish, which it is from 1 on."""
        return max(self.incoherence(dose) / incoherence, dose.repetition / repetition)

    def holds_together(self, dose: Dose) -> bool:
        """Nearer to the model's own text than to word salad, and fewer than half of its token pairs
        repeated."""
        return self.incoherence(dose) < 0.5 and dose.repetition < 0.5

    def coherent_texts(self) -> set[tuple[int, str]]:
        """Continuations, with their prompts, that hold together and are not the unsteered one."""
        return {
            (dose.prompt, dose.text)
            for dose in self.doses
            if dose.changed and self.holds_together(dose)
        }

    def band(
        self,
        *,
        changed: float | int = 0.5,
        kl: float | int = 0.1,
        incoherence: float | int = GIBBERISH,
        repetition: float | int = LOOP,
        tolerated: float | int = 0.5,
        control: bool = False,
        sign: int | None = None,
    ) -> Band:
        """The radii between paraphrase and gibberish.

        Args:
            changed, kl: paraphrase ends where this share of continuations differ from the unsteered
                one and the median KL at the next token is this many nats.
            incoherence, repetition: a continuation is gibberish if it reaches one of these. The
                defaults: a quarter of the way from the model's own text to word salad (a text in
                which one phrase in four makes no sense), and half of the token pairs repeated.
            tolerated: the band ends where more than this share of continuations is gibberish.
            control: of the random vectors instead of the bank.
            sign: of one sign only; both unless given.

        Both ends are found by interpolation in log radius, and are never outside the radii that
        were measured. Where no radius is between the two (the model goes from paraphrase straight
        to gibberish, or the radii all lie on one side), both ends are the radius nearest to a band,
        and a warning and `note` say so. Where gibberish is not reached, `highest` is the largest
        radius and `note` says so.
        """
        return _band(
            self.radii,
            *self.ends(
                changed=changed,
                kl=kl,
                incoherence=incoherence,
                repetition=repetition,
                tolerated=tolerated,
                control=control,
                sign=sign,
            ),
        )

    def ends(
        self,
        *,
        changed: float | int = 0.5,
        kl: float | int = 0.1,
        incoherence: float | int = GIBBERISH,
        repetition: float | int = LOOP,
        tolerated: float | int = 0.5,
        control: bool = False,
        sign: int | None = None,
    ) -> tuple[float, float]:
        """Where paraphrase ends and where gibberish begins, as for `band`, whichever comes first;
        infinite where that is not reached, and the smallest radius where it is reached there."""
        if not (0 < changed <= 1 and 0 <= tolerated < 1 and kl >= 0):
            raise SettingError(
                f"changed={changed}, tolerated={tolerated}, kl={kl}: expected shares, and a "
                "divergence of at least 0."
            )
        if not (incoherence > 0 and repetition > 0):
            raise SettingError(
                f"incoherence={incoherence}, repetition={repetition}: expected numbers above 0."
            )
        if not all(self._columns(control, sign)):
            raise SettingError(
                f"There are no doses with control={control}, sign={sign}: measure them first."
            )

        def curve(value: Callable[[Sequence[Dose]], float]) -> list[float]:
            return [value(column) for column in self._columns(control, sign)]

        def spoilt(doses: Sequence[Dose]) -> float:
            worst = [self.spoilt(d, incoherence=incoherence, repetition=repetition) for d in doses]
            return quantile(worst, 1 - tolerated)

        radii = self.radii
        leaves = max(
            reaches(radii, curve(lambda doses: share_of(d.changed for d in doses)), changed),
            reaches(radii, curve(lambda doses: median(d.kl for d in doses)), kl),
        )
        babbles = reaches(radii, curve(spoilt), 1.0)
        return leaves, babbles

    def _columns(self, control: bool, sign: int | None) -> list[tuple[Dose, ...]]:
        return [self.at(radius, control=control, sign=sign) for radius in self.radii]

    def table(self, *, width: int = 40) -> Sheet:
        """One row per radius and sign, and one of the random vectors at that radius."""
        rows = []
        for radius in self.radii:
            for control, sign in ((False, 1), (False, -1), (True, 1)):
                doses = self.at(radius, control=control, sign=sign)
                if doses:
                    rows.append((f"{radius:.3g}", *_row(doses, width)))
        note = (
            f"{self.source}, median residual norm {self.norm:.4g}; medians and quartiles over "
            "vectors and prompts. Surprise in nats per token above the unsteered continuation's: "
            f"{self.fluent:.2f} for text sampled from the model, {self.salad:.2f} for the same "
            "text shuffled."
        )
        columns = (
            "radius",
            "share",
            "",
            "KL",
            "surprise",
            "repeated",
            "changed",
            "distinct",
            "text",
        )
        return Sheet("Dose and response", columns, tuple(rows), note)


def incoherence(surprise: float, *, fluent: float, salad: float) -> float:
    """How far a text's surprise is from the model's own text (0) towards word salad (1). Always 0
    on a model that finds its own text shuffled no more surprising, so that repetition alone
    decides."""
    return 0.0 if salad <= fluent else (surprise - fluent) / (salad - fluent)


def _row(doses: tuple[Dose, ...], width: int) -> tuple[str, ...]:
    def spread(values: Sequence[float]) -> str:
        low, middle, high = (quantile(values, part) for part in (0.25, 0.5, 0.75))
        return f"{number(round(middle, 3))} ({number(round(low, 2))}–{number(round(high, 2))})"

    middle = sorted(doses, key=lambda dose: dose.surprise)[len(doses) // 2]
    return (
        f"{doses[0].share:.3f}",
        "random" if doses[0].control else ("+" if doses[0].sign > 0 else "-"),
        spread([dose.kl for dose in doses]),
        spread([dose.surprise for dose in doses]),
        f"{quantile([dose.repetition for dose in doses], 0.5):.0%}",
        f"{share_of(dose.changed for dose in doses):.0%}",
        f"{distinct_share(doses):.0%}",
        shorten(middle.text, width),
    )


def _band(radii: tuple[float, ...], leaves: float, babbles: float) -> Band:
    first, last = radii[0], radii[-1]
    if leaves <= last and babbles == math.inf:
        return Band(leaves, last, f"no gibberish up to {last:.3g}, the largest radius measured")
    if leaves <= babbles and first < babbles < math.inf:
        return Band(leaves, babbles)
    if babbles == math.inf:
        nearest, why = last, f"every radius up to {last:.3g} paraphrases: measure larger ones"
    elif babbles <= first:
        nearest, why = first, f"radius {first:.3g} already gives gibberish: measure smaller ones"
    else:
        nearest = babbles
        why = f"gibberish begins at {babbles:.3g}, before paraphrase ends"
    warnings.warn(f"No band between paraphrase and gibberish: {why}.", stacklevel=3)
    return Band(nearest, nearest, why)


def reaches(radii: Sequence[float], values: Sequence[float], level: float) -> float:
    """The first radius at which values, joined by straight lines over log radius, are at `level`;
    infinity if they never are."""
    for i, value in enumerate(values):
        if value >= level:
            if i == 0:
                return radii[0]
            low, high = math.log(radii[i - 1]), math.log(radii[i])
            part = (level - values[i - 1]) / (value - values[i - 1])
            return min(math.exp(low + part * (high - low)), radii[i])
    return math.inf


def share_of(flags: Iterable[bool]) -> float:
    counted = list(flags)
    return sum(counted) / len(counted)


def quantile(values: Sequence[float], part: float | int) -> float:
    """By linear interpolation between the two nearest of the sorted values."""
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def distinct_share(doses: Sequence[Dose]) -> float:
    """Different continuations of a prompt, over vectors; 1 where no two vectors agree."""
    return len({(dose.prompt, dose.text) for dose in doses}) / len(doses)
