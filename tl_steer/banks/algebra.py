"""Banks as values: joining and comparing them, and arithmetic of steering vectors.

What arithmetic makes was never run, and effects are not linear, so its responses and objectives are
NaN: `Bank.from_vectors(model, bank, prompts=...)` measures them.
"""

import dataclasses
import math
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tl_steer.banks.neighbours import Neighbours
from tl_steer.errors import SettingError
from tl_steer.files.signatures import refuses
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.kinds import kind_of
from tl_steer.perturbations.perturbation import Perturbation

_PLACES = ("source", "target", "positions")
Own = TypeVar("Own", bound="Algebra")


class Algebra(Neighbours):
    """What is done with banks without a model."""

    __array_ufunc__ = None  # a number of numpy's times a bank is a bank

    def merge(self: Own, other: Own) -> Own:
        """Both banks' vectors, numbered anew. Radii may differ where the rows hold their own, as
        vectors do (the mean is kept); models and sites may not."""
        self._refuse_other(other, "merged", (*_PLACES, "kind", "form"))
        if self.radius != other.radius and not self._rows_know_their_radius():
            raise SettingError(
                f"Banks of kind {self.kind!r} share one radius, and these have {self.radius:.3g} "
                f"and {other.radius:.3g}: keep two banks."
            )
        note = f"merged {len(self)} with {len(other)} vectors ({other.provenance.method})"
        share = len(self) / (len(self) + len(other))
        return dataclasses.replace(
            self,
            vectors=torch.cat([self.vectors, other.vectors]),
            responses=torch.cat([self.responses, other.responses]),
            objective=torch.cat([self.objective, other.objective]),
            labels=self.labels + other.labels,
            comments=self.comments + other.comments,
            numbers=(),
            scores={
                name: torch.cat([self.scores[name], other.scores[name]])
                for name in self.scores.keys() & other.scores.keys()
            },
            radius=share * self.radius + (1 - share) * other.radius,
            radius_share=share * self.radius_share + (1 - share) * other.radius_share,
            provenance=dataclasses.replace(self.provenance, notes=(*self.provenance.notes, note)),
        )

    def _rows_know_their_radius(self) -> bool:
        return kind_of(self.kind).lengths is not Perturbation.lengths

    def __neg__(self: Own) -> Own:
        return self * -1

    @refuses
    def __mul__(self: Own, factor: float | int) -> Own:
        """Every vector times a number. Labels and numbers stay; what the vectors do is unknown.

        Raises:
            SettingError: what is no finite number, or a bank that does not hold steering vectors.
        """
        by = _finite(factor)
        found = self._unmeasured(by * self.vectors, f"times {by:g}")
        radius, share = abs(by) * self.radius, abs(by) * self.radius_share
        return dataclasses.replace(found, radius=radius, radius_share=share)

    __rmul__ = __mul__

    @refuses
    def __truediv__(self: Own, divisor: float | int) -> Own:
        if _finite(divisor) == 0:
            raise SettingError("A bank cannot be divided by 0.")
        return self * (1 / _finite(divisor))

    @refuses
    def __add__(self: Own, other: Own) -> Own:
        """Sums, vector by vector; a bank of one is added to every vector of the other. Numbered
        anew, and what the sums do is unknown.

        Raises:
            SettingError: two lengths, sites, positions, models or kinds, or no steering vectors.
        """
        self._refuse_addend(other)
        vectors = self.vectors + other.vectors
        many = self if len(self) == len(vectors) else other
        found = many._unmeasured(vectors, f"sums of {_named(self)} and {_named(other)}")
        radius = float(vectors.norm(dim=1).mean())
        labels = (own * (len(vectors) // len(own)) for own in (self.labels, other.labels))
        return dataclasses.replace(
            found,
            radius=radius,
            radius_share=radius * self.radius_share / self.radius if self.radius else math.nan,
            labels=tuple(" + ".join(filter(None, pair)) for pair in zip(*labels, strict=True)),
            numbers=(),
            comments=(),
        )

    @refuses
    def __radd__(self: Own, other: Any) -> Own:
        """What `sum(bank)` needs, which begins with 0."""
        if not isinstance(other, int) or other != 0:
            self._refuse_addend(other)
        return self

    @refuses
    def __sub__(self: Own, other: Own) -> Own:
        self._refuse_addend(other)
        return self + -other

    @property
    def vector(self) -> Float[Tensor, " n"]:
        """The one vector of a bank of one: `bank[3].vector`.

        Raises:
            ShapeError: the bank holds several, or none.
        """
        self._refuse_several("bank.vector is that of")
        return self.vectors[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The vectors, `[vec width]`; always a copy."""
        return np.array(self.vectors.numpy(), dtype=dtype)

    def _unmeasured(self: Own, vectors: Float[Tensor, "vec n"], note: str) -> Own:
        """Other vectors in the place of its own, of which nothing is known.

        Raises:
            SettingError: its rows are no vectors.
        """
        if self.kind != Additive.kind:
            raise SettingError(
                f"A bank of kind {self.kind!r} cannot be added or multiplied: its rows are no "
                "steering vectors, whose sums and multiples mean something."
            )
        made = self.provenance
        return dataclasses.replace(
            self,
            vectors=vectors,
            responses=torch.full_like(self.responses, math.nan),
            objective=torch.full_like(self.objective, math.nan),
            scores={},
            provenance=dataclasses.replace(made, notes=(*made.notes, note)),
        )

    def _refuse_addend(self, other: object) -> None:
        if not isinstance(other, Algebra):
            raise SettingError(
                f"A bank and {type(other).__name__} have no sum: expected another bank. Vectors "
                "become one by Bank.from_vectors(model, vectors, prompts=..., source=..., "
                "target=...)."
            )
        self._refuse_other(other, "added", (*_PLACES, "kind"))
        if len(self) != len(other) and 1 not in (len(self), len(other)):
            raise SettingError(
                f"Banks of {len(self)} and {len(other)} vectors cannot be added: expected as many, "
                "or one."
            )


def _finite(factor: Any) -> float:
    if isinstance(factor, (Tensor, np.ndarray)) and factor.ndim == 0:
        factor = factor.item()
    if isinstance(factor, bool) or not isinstance(factor, Real) or not math.isfinite(factor):
        what = "a bank" if isinstance(factor, Algebra) else " ".join(repr(factor).split())[:80]
        raise SettingError(
            f"A bank times or by {what}: expected one finite number for all vectors; a strength "
            "for each goes where they are used (scale=)."
        )
    return float(factor)


def _named(bank: Algebra) -> str:
    shown = ", ".join(f"#{number}" for number in bank.numbers[:4])
    return shown + (", ..." if len(bank) > 4 else "")
