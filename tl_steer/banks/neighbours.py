"""Banks as many vectors, some of which are alike: near-duplicates, neighbours, and whether one is
known already.

A bank may hold a million: whatever compares vectors does so in blocks.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.columns import Columns
from tl_steer.errors import SettingError, ShapeError
from tl_steer.files.signatures import typed
from tl_steer.models.fingerprint import same_model
from tl_steer.perturbations.neighbours import (
    distinct_rows,
    nearest_rows,
    similar,
    unknown_rows,
)
from tl_steer.perturbations.sphere import cosines

Own = TypeVar("Own", bound="Neighbours")


class Neighbours(Columns):
    """What is asked of a bank's vectors beside each other."""

    def distinct(self: Own, *, threshold: float | int = 0.9) -> Own:
        """Without near-duplicates: of vectors whose responses have |cosine| >= `threshold`, the
        first.

        Orthogonal vectors can have the same effect, so responses are compared and not vectors.

        Raises:
            SettingError: a response is unknown.
        """
        unknown = unknown_rows(self.responses)
        if len(unknown):
            raise SettingError(
                f"distinct() compares responses, and that of vector {self.numbers[unknown[0]]} is "
                "unknown. Measure it: Bank.from_vectors(model, bank, prompts=...)."
            )
        return self[distinct_rows(self.responses, threshold)]

    def cosines(self) -> Float[Tensor, "vec vec"]:
        """Cosine of every pair of vectors. Vectors at right angles can have one effect: `nearest`
        compares responses."""
        return cosines(self.vectors)

    @typed
    def nearest(self, *, most: int | None = None) -> list[tuple[int, float]]:
        """For each vector, or the first `most`, the row of the other one whose response is most
        like its own, and their |cosine|; (-1, 0) where there is no other that was measured, and
        (-1, NaN) where it was not itself."""
        if len(self) == 0:
            return []
        rows, values = nearest_rows(self.responses, len(range(len(self))[:most]))
        return list(zip(rows.tolist(), values.tolist(), strict=True))

    @typed
    def like(self: Own, other: "Neighbours", *, most: int = 10) -> Own:
        """The vectors whose responses are most like that of another bank's one vector, first the
        most alike, with their |cosine| as the score "like": is something found known already?

        Vectors are not compared, so the other may act elsewhere; but responses can be compared at
        one target of one model alone.

        Raises:
            SettingError: two targets or models, or the other's response is unknown.
            ShapeError: the other holds several vectors, or none.
        """
        other._refuse_several("like(...) compares with")
        self._refuse_other(other, "compared", ("target",))
        if bool(other.responses.isnan().any()):
            raise SettingError(
                "like() compares responses, and that of the other bank is unknown. Measure it: "
                "Bank.from_vectors(model, bank, prompts=...)."
            )
        columns = [values[0] for _, values in similar(other.responses, self.responses)]
        values = torch.cat(columns) if columns else self.objective.double()
        return self.with_score("like", values.to(torch.float32)).sort("like", most=most)

    def _refuse_several(self, what: str) -> None:
        if len(self) != 1:
            raise ShapeError(
                f"{what} a bank of one, and this holds {len(self)}: bank[0].vector, or "
                "bank.vectors for all."
            )

    def _refuse_other(self, other: "Neighbours", done: str, names: Sequence[str]) -> None:
        for name in names:
            if getattr(self, name) != getattr(other, name):
                raise SettingError(
                    f"Banks with different {name} cannot be {done}: {getattr(self, name)} and "
                    f"{getattr(other, name)}. Keep them as two banks."
                )
        if not same_model(self.provenance.fingerprint, other.provenance.fingerprint):
            raise SettingError(
                f"These banks come from different models ({self.provenance.model}, "
                f"{other.provenance.model}) and cannot be {done}."
            )
