"""What successive halving chose, and how well that holds on prompts it has not seen."""

from dataclasses import dataclass
from typing import Any

from tl_steer.banks.origin import UNTOLD, Origin
from tl_steer.files.record import Record
from tl_steer.files.tables import Sheet, number


@dataclass(frozen=True)
class Round:
    """One round of halving: how many vectors met how many prompts, and who stayed."""

    vectors: int
    prompts: int
    best: float
    kept: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Selection(Record):
    """The vectors that won, best first; `halve` makes it.

    Attributes:
        winners: rows of the bank, so `bank[list(selection.winners)]` is what was chosen.
        validation, held_out: the winners' mean metric on all validation prompts, on which they were
            chosen, and on the held-out ones. **Report the second.**
        rounds: how it went.
        random_validation, random_held_out: the same for as many random vectors, chosen in the same
        way. unsteered_validation, unsteered_held_out: the model without steering.
        labels: of the winners.
        settings: how it was done.
        numbers: what the winners are called in the bank.
        origin: the bank and the model.
    """

    winners: tuple[int, ...]
    validation: tuple[float, ...]
    held_out: tuple[float, ...]
    rounds: tuple[Round, ...]
    random_validation: tuple[float, ...]
    random_held_out: tuple[float, ...]
    unsteered_validation: float
    unsteered_held_out: float
    labels: tuple[str, ...]
    settings: dict[str, Any]
    numbers: tuple[int, ...] = ()
    origin: Origin = UNTOLD

    def __post_init__(self) -> None:
        if not self.numbers:
            object.__setattr__(self, "numbers", self.winners)

    def __len__(self) -> int:
        return len(self.winners)

    def table(self) -> Sheet:
        """The winners, the best random vectors and the unsteered model, on both sets of prompts."""
        rows = [
            (str(called), self.labels[i], number(self.validation[i]), number(self.held_out[i]))
            for i, called in enumerate(self.numbers)
        ]
        rows += [
            ("", "random", number(validation), number(held_out))
            for validation, held_out in zip(
                self.random_validation, self.random_held_out, strict=True
            )
        ]
        bare = number(self.unsteered_validation), number(self.unsteered_held_out)
        rows.append(("", "unsteered", *bare))
        played = ", ".join(f"{r.vectors} on {r.prompts}" for r in self.rounds)
        note = (
            f"Vectors on prompts, round by round: {played}. Winners were chosen on the validation "
            f"prompts, so only the {self.settings['held_out']} held-out prompts measure them."
        )
        return Sheet("Selection", ("#", "vector", "validation", "held out"), tuple(rows), note)
