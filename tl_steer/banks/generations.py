"""Continuations as a value; nothing of the model that made them is in it."""

from dataclasses import dataclass
from typing import Any

from tl_steer.banks.origin import UNTOLD, Origin
from tl_steer.files.record import Record
from tl_steer.files.tables import Sheet, shorten, to_html


@dataclass(frozen=True, repr=False)
class Generations(Record):
    """Continuations of every prompt under every vector, beside the unsteered ones.

    `texts[vec][prompt]` and `unsteered[prompt]` are what came after the prompt, special tokens left
    out. `settings` holds how they were sampled, `numbers` what each vector is called in its bank,
    and `origin` which bank that is.
    """

    prompts: tuple[str, ...]
    unsteered: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    settings: dict[str, Any]
    numbers: tuple[int, ...] = ()
    origin: Origin = UNTOLD

    def __post_init__(self) -> None:
        if not self.numbers:
            object.__setattr__(self, "numbers", tuple(range(len(self.texts))))

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, vector: int) -> tuple[str, ...]:
        return self.texts[vector]

    def changed(self) -> int:
        """How many of the continuations differ from the unsteered one."""
        return sum(
            text != base
            for row in self.texts
            for text, base in zip(row, self.unsteered, strict=True)
        )

    def distinct(self) -> int:
        """How many different continuations there are, summed over prompts."""
        return sum(len({row[p] for row in self.texts}) for p in range(len(self.prompts)))

    def table(self, *, width: int = 160) -> Sheet:
        """Steered continuations under the unsteered one, prompt by prompt."""
        rows = []
        for p, prompt in enumerate(self.prompts):
            rows.append(("", "prompt", shorten(prompt, width)))
            rows.append(("", "unsteered", shorten(self.unsteered[p], width)))
            for v, label in enumerate(self.labels):
                rows.append((str(self.numbers[v]), label, shorten(self.texts[v][p], width)))
        return Sheet("Generations", ("#", "vector", "continuation"), tuple(rows))

    def _repr_html_(self) -> str:
        return to_html(self.table(width=2000))  # a notebook has room
