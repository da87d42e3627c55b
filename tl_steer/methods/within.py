r"""Search inside a subspace: any method, on coordinates.

With orthonormal rows Q that span the subspace, a vector is $\theta = c\,Q$, and the method climbs
c: gradients come back projected, $\nabla_c f = (\nabla_\theta f)\,Q^\top$, lengths and angles are
the same, and no step, of AdamW neither, leads out. Nothing about the objective changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_steer.errors import SettingError
from tl_steer.files.signatures import refuses, typed_fields
from tl_steer.methods.parameters import state_tensor
from tl_steer.methods.power import Power
from tl_steer.methods.protocol import Iterate, Method, refuse_other_kinds
from tl_steer.objectives.objective import Objective
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import to_sphere

_BASIS = "within.basis"


@runtime_checkable
class Span(Protocol):
    """What knows a subspace, as readings do."""

    def basis(self, objective: Objective) -> Float[Tensor, "k width"]:
        """Orthonormal rows at the objective's source."""


@typed_fields
@dataclass(frozen=True)
class Within:
    """A method that stays in the span of a reading. For steering vectors.

    Args:
        span: a reading of two models such as `WeightDifference(base, top=4)`, or anything else
            with `basis(objective)`.
        method: what climbs: `Power()`, `Melbo()`, `Dct()`, `Sogi()`, or your own that takes any
            perturbation. Those that need plain vectors (`Jacobian`, `Quadratic`) refuse.

    The start is projected into the span and put back to its length. More orthogonal vectors than
    the span has dimensions are refused by the method.

    Raises:
        SettingError: what spans nothing, or rows that are not orthonormal.
    """

    span: Any
    method: Method = Power()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if not isinstance(self.span, Span):
            raise SettingError(
                f"Within: {repr(self.span)[:80]} has no basis(objective); expected a reading such "
                "as WeightDifference(base)."
            )

    @refuses
    def __call__(
        self, objective: Objective, start: Additive, *, resume: dict[str, Tensor] | None = None
    ) -> Iterator[Iterate]:
        refuse_other_kinds(self, start)
        kept = dict(resume or {})
        # In the state, since a resumed run must not depend on what an SVD makes of it this time.
        basis = state_tensor(_BASIS, kept) if kept else self._basis(objective, start)
        inside = Spanned(start, basis)
        kept.pop(_BASIS, None)
        way = self.method(objective, inside, **({"resume": kept} if kept else {}))
        for iterate in way:
            found = iterate.perturbation
            if not isinstance(found, Spanned):
                raise SettingError(f"{self.method!r} gave {type(found).__name__}s for Spanneds.")
            state = {**iterate.state, _BASIS: basis} if iterate.state else {}
            yield replace(iterate, perturbation=found.as_vectors(), state=state)

    def _basis(self, objective: Objective, start: Additive) -> Tensor:
        basis: Tensor = self.span.basis(objective).to(start.vectors)
        width = start.site.width
        if basis.ndim != 2 or basis.shape[1] != width or not len(basis):
            raise SettingError(
                f"{self.span} gave a basis of shape {tuple(basis.shape)}; expected rows of {width}."
            )
        unit = torch.eye(len(basis), dtype=basis.dtype, device=basis.device)
        if float((basis @ basis.T - unit).abs().max()) > 1e-3:
            raise SettingError(f"{self.span} gave rows that are not orthonormal.")
        return basis


class Spanned(Perturbation):
    """Steering vectors by their coordinates in a subspace; `Within` climbs these.

    Args:
        like: the vectors; what of them lies in the subspace is scaled back to their norm.
        basis: orthonormal rows.
    """

    def __init__(self, like: Additive, basis: Float[Tensor, "k width"]) -> None:
        super().__init__(like.site, positions=like.positions)
        self.basis, self.radius = basis, like.radius
        self.coordinates = nn.Parameter(like.vectors.detach() @ basis.T)
        self.project_()

    def forward(
        self, activation: Float[Tensor, "batch pos width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        chosen = self.coordinates.index_select(0, rows.to(self.coordinates.device)) @ self.basis
        return activation + chosen[:, None].to(activation)

    @torch.no_grad()
    def project_(self) -> None:
        self.coordinates.copy_(to_sphere(self.coordinates, self.radius))

    def as_vectors(self) -> Additive:
        """The same edits as a bank holds them."""
        vectors = self.coordinates.detach() @ self.basis
        return Additive(self.site, vectors, radius=self.radius, positions=self.positions)
