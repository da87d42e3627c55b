"""What successive halving chose, and how well that holds on prompts it has not seen."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_steer.files import write_beside
from tl_steer.tables import selection_table, to_html, to_text


@dataclass(frozen=True)
class Round:
    """One round of halving: how many vectors met how many prompts, and who stayed."""

    vectors: int
    prompts: int
    best: float
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Selection:
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

    def __len__(self) -> int:
        return len(self.winners)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write as JSON."""
        write_beside(Path(path), json.dumps(self.to_json()).encode())
        return Path(path)

    def __repr__(self) -> str:
        return to_text(selection_table(self))

    def _repr_html_(self) -> str:
        return to_html(selection_table(self))
