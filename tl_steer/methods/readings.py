r"""Directions read off two models, a fine-tune M and the base B it was made from, without a search.

| reading | directions | source |
| --- | --- | --- |
| `WeightDifference` | left singular vectors of $W_M - W_B$, for maps that write into the stream | WeightWatch, arXiv 2508.00161 |
| `MeanDifference` | the mean of $h_M - h_B$ over clean tokens | activation difference lens, arXiv 2510.13900 |
| `CleanComponents` | principal components of $h_M - h_B$ over clean tokens | |

They cost a few SVDs or one more forward pass, and are what to try first where a base is at hand.
Each is a method, and has a `basis` as well, for `Within` to search in. They do not climb: the
objective only orders what comes back.

**Conventions.** A bank holds fewer vectors than were asked for where a reading has no more
directions than that; none is made up. Singular values that rounding of weights or activations may
have made are no directions. M is the model that the objective runs, with the hooks that are on it;
B, with its own, gets the same tokens.

Wrong to rely on where a model was trained against being read: on the hardened organism hardly any
of them finds the phrase (docs/methods.md).
"""  # noqa: E501 (a table)

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.errors import ModelError, SettingError
from tl_steer.files.signatures import refuses
from tl_steer.methods.protocol import Iterate, moved, refuse_other_kinds, state_of
from tl_steer.methods.spectra import independent_rows
from tl_steer.models.model import model_name
from tl_steer.models.reference import Reference
from tl_steer.models.segment import Segment
from tl_steer.objectives.objective import Objective
from tl_steer.perturbations.additive import Additive


@dataclass(frozen=True)
class Directions:
    """Unit vectors at a source, the largest first, and numbers that belong to them."""

    rows: Float[Tensor, "k width"]
    scores: dict[str, Float[Tensor, " k"]]


class Reading:
    """What readings of two models have in common; one says its `directions`."""

    base: Any  # a `Reference`, once it is made
    signs: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", Reference.of(self.base))
        object.__setattr__(self, "signs", tuple(self.signs))
        if not self.signs or not set(self.signs) <= {1, -1}:
            raise SettingError(f"{self}: expected signs out of 1 and -1.")

    def directions(self, segment: Segment) -> Directions:
        """What is read off for the source of that segment.

        Raises:
            ModelError: the base is of another size, or nothing differs.
        """
        raise TypeError(f"{type(self).__name__} must define directions(segment)")

    def basis(self, objective: Objective) -> Float[Tensor, "k width"]:
        """Orthonormal rows that span the directions."""
        return independent_rows(self.directions(objective.segment).rows)

    @refuses
    def __call__(
        self, objective: Objective, start: Additive, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        refuse_other_kinds(self, start)
        if resume:  # there is one step, and it is done
            return
        found = self.directions(objective.segment)
        sides = torch.tensor(self.signs, dtype=found.rows.dtype, device=found.rows.device)
        signed = (found.rows[:, None] * sides[:, None]).flatten(0, 1)[: len(start)]
        here = moved(start.select(slice(len(signed))), [signed.to(start.vectors)])
        scores = {
            name: values.repeat_interleave(len(self.signs))[: len(signed)]
            for name, values in found.scores.items()
        }
        at = objective(here, gradient=False)
        yield Iterate(here, at.value, 1, 1, scores, state_of(here, 1), at)

    def nothing(self, segment: Segment, what: str) -> ModelError:
        """That nothing differs, as an error."""
        return ModelError(
            f"There is no difference between {model_name(segment.model)} and {self.base.name} in "
            f"{what}, so there is nothing to read. Give the model that it was made from as base, "
            "and a source behind what was changed."
        )
