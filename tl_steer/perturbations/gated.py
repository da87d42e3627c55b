r"""Vectors that act only where the activation looks a certain way.

$$x \mapsto x + v\,[\cos(x, g) > t]$$

Source: conditional activation steering, Lee et al., "Programming refusal with conditional
activation steering" (2024), with the condition read at the point that is edited and token by token.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from tl_steer.files.signatures import refuses
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Point, Site
from tl_steer.perturbations.directions import as_rows, refuse_rows, site_of
from tl_steer.perturbations.kinds import register
from tl_steer.perturbations.perturbation import NO_SETTINGS, Perturbation
from tl_steer.perturbations.sphere import random_on_sphere, to_sphere


@register("gated")
class Gated(Perturbation):
    """Add a vector at the tokens whose cosine with a direction passes a threshold.

    Args:
        site: the hook point, or its name (see `Perturbation`).
        vectors: what is added, one row per edit, or one vector.
        gates: the directions looked for, one row per edit. A step has no gradient, so training
            changes vectors and leaves gates as they are; drawn at random unless given.
        threshold: the cosine that must be exceeded. Random directions have 0 give or take
            1 / sqrt(width).
        radius: the norm of the vectors; `None` takes their mean norm.

    Wrong to use before looking at the cosines: a threshold that no token passes is an edit that
    never acts, and one that all pass is `Additive`.

    Raises:
        ShapeError: rows that do not fit the site.
    """

    @refuses
    def __init__(
        self,
        site: Point,
        vectors: Float[Tensor, "*vec width"],
        gates: Float[Tensor, "*vec width"],
        *,
        threshold: float | int = 0.0,
        radius: float | int | None = None,
        positions: Positions = EVERYWHERE,
    ) -> None:
        vectors, gates = as_rows(vectors), as_rows(gates)
        super().__init__(site_of(site, vectors), positions=positions)
        refuse_rows(self, "vectors", vectors)
        refuse_rows(self, "gates", gates, n=len(vectors))
        self.radius = float(vectors.norm(dim=1).mean()) if radius is None else float(radius)
        self.threshold = float(threshold)
        self.vectors = nn.Parameter(vectors.detach().clone())
        self.gates = nn.Parameter(normalize(gates.detach(), dim=1))

    @classmethod
    def random(
        cls,
        site: Site,
        n: int,
        *,
        radius: float | int,
        generator: torch.Generator,
        positions: Positions = EVERYWHERE,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> "Gated":
        """Random vectors behind random gates."""
        vectors = random_on_sphere(n, site.width, radius=radius, generator=generator)
        gates = random_on_sphere(n, site.width, radius=1.0, generator=generator)
        return cls(site, vectors, gates, radius=radius, positions=positions, **settings)

    def forward(
        self, activation: Float[Tensor, "batch pos width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        rows = rows.to(self.vectors.device)
        v, g = (p.index_select(0, rows)[:, None].to(activation) for p in (self.vectors, self.gates))
        passes = cosine_similarity(activation.float(), g.float(), dim=-1) > self.threshold
        return torch.where(passes[..., None], activation + v, activation)

    @torch.no_grad()
    def project_(self) -> None:
        self.vectors.copy_(to_sphere(self.vectors, self.radius))
        self.gates.copy_(normalize(self.gates, dim=1))
