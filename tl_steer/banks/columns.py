"""What a bank knows of each vector, column by column: choosing, ordering and naming rows."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.index import chosen, chosen_numbers, chosen_rows, listed_rows, numbered, taken
from tl_steer.banks.provenance import Provenance
from tl_steer.errors import RowError, SettingError
from tl_steer.files.jsons import plain_json
from tl_steer.files.signatures import refuses, typed
from tl_steer.files.tables import Tabled
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Site
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.kinds import kind_of

Kept = TypeVar("Kept", bound="Columns")


@dataclass(frozen=True, eq=False, repr=False)
class Columns(Tabled):
    """The columns of a `Bank`, which says what each holds."""

    vectors: Float[Tensor, "vec d_model"]
    responses: Float[Tensor, "vec d_target"]
    objective: Float[Tensor, " vec"]
    source: Site
    target: Site
    radius: float
    radius_share: float
    provenance: Provenance
    positions: Positions = EVERYWHERE
    labels: tuple[str, ...] = ()
    kind: str = Additive.kind
    form: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Float[Tensor, " vec"]] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()
    comments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for words in ("labels", "comments"):
            if not getattr(self, words):
                object.__setattr__(self, words, ("",) * len(self.vectors))
        object.__setattr__(self, "numbers", numbered(self.numbers, len(self.vectors)))
        object.__setattr__(self, "form", plain_json(self.form))
        columns = (self.vectors, self.responses, self.objective, *self.scores.values())
        width = kind_of(self.kind).packed_width(self.source, self.form)
        lengths = {len(self.labels), len(self.comments), *map(len, columns)}
        if lengths != {len(self.vectors)} or self.vectors.shape[1] != width:
            raise SettingError(
                f"A bank needs one response, objective, score and label per vector, and rows of "
                f"{width} ({self.kind} at {self.source}); got vectors {tuple(self.vectors.shape)}, "
                f"responses {tuple(self.responses.shape)}, objective {tuple(self.objective.shape)},"
                f" {len(self.labels)} labels and {len(self.comments)} comments."
            )

    def __len__(self) -> int:
        return len(self.vectors)

    @refuses
    def __getitem__(self: Kept, rows: int | slice | Sequence[int] | Tensor) -> Kept:
        """A bank of some of the vectors; `bank[4]` is a bank of one. Numbers may be numpy's or
        torch's, alone or in one axis. A slice of half the bank or more shares its memory.

        Raises:
            RowError: a vector that is not in the bank, or what is no choice of vectors.
        """
        found = chosen_rows(rows, len(self))
        return dataclasses.replace(
            self,
            vectors=taken(self.vectors, found),
            responses=taken(self.responses, found),
            objective=taken(self.objective, found),
            labels=chosen(self.labels, found),
            numbers=chosen_numbers(self.numbers, found),
            comments=chosen(self.comments, found),
            scores={name: taken(values, found) for name, values in self.scores.items()},
        )

    def __iter__(self: Kept) -> Iterator[Kept]:
        return (self[i] for i in range(len(self)))

    def sort(
        self: Kept,
        by: str | Float[Tensor, " vec"] = "objective",
        *,
        descending: bool = True,
        most: int | None = None,
    ) -> Kept:
        """Ordered by objective, by one of the `scores`, or by numbers of your own (NaN comes last).

        Args:
            most: only the first so many; of a large bank, no others are copied.
        """
        keys = self.score(by) if isinstance(by, str) else by
        if len(keys) != len(self):
            raise SettingError(f"{len(keys)} numbers cannot order {len(self)} vectors.")
        worst = -math.inf if descending else math.inf
        keys = torch.where(keys.isnan(), worst, keys)
        return self[torch.argsort(keys, descending=descending, stable=True)[:most]]

    @typed
    def row(self, number: int) -> int:
        """Where the vector of this number is.

        Raises:
            RowError: there is none.
        """
        if number not in self.numbers:
            there = ", ".join(map(str, self.numbers[:12])) + (", ..." if len(self) > 12 else "")
            raise RowError(f"The bank holds no vector of number {number}; there are {there}.")
        return self.numbers.index(number)

    def score(self, name: str) -> Float[Tensor, " vec"]:
        """The objective, or one of the `scores`, by name."""
        if name == "objective":
            return self.objective
        if name not in self.scores:
            there = ", ".join(("objective", *self.scores))
            raise SettingError(f"This bank has no score {name!r}; there are {there}.")
        return self.scores[name]

    def with_score(self: Kept, name: str, values: Float[Tensor, " vec"]) -> Kept:
        """A bank with one more number per vector, shown in its table and saved with it."""
        return dataclasses.replace(self, scores={**self.scores, name: values.detach().cpu()})

    def label(self: Kept, row: int, text: str) -> Kept:
        """A bank with a note on one vector.

        Raises:
            RowError: a vector that is not in the bank.
        """
        labels = list(self.labels)
        labels[int(listed_rows([row], len(self)))] = text
        return dataclasses.replace(self, labels=tuple(labels))
