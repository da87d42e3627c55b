"""Frozen records of what a verb found; they know nothing of the model that made them."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_steer.files import write_beside
from tl_steer.tables import generations_table, to_html, to_text


@dataclass(frozen=True)
class Generations:
    """Continuations of every prompt under every vector, beside the unsteered ones.

    `texts[vec][prompt]` and `unsteered[prompt]` are what came after the prompt, special tokens left
    out. `settings` holds how they were sampled.
    """

    prompts: tuple[str, ...]
    unsteered: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    settings: dict[str, Any]

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

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write as JSON."""
        write_beside(Path(path), json.dumps(self.to_json()).encode())
        return Path(path)

    def __repr__(self) -> str:
        return to_text(generations_table(self))

    def _repr_html_(self) -> str:
        return to_html(generations_table(self, width=2000))
