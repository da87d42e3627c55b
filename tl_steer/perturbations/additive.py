"""Steering vectors: the additive kind."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tl_steer.errors import SettingError
from tl_steer.files.signatures import refuses, typed
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Point, Site
from tl_steer.perturbations.directions import as_rows, refuse_rows, site_of
from tl_steer.perturbations.kinds import register
from tl_steer.perturbations.perturbation import Perturbation
from tl_steer.perturbations.sphere import to_sphere


@register("additive")
class Additive(Perturbation):
    """Steering vectors: add `vectors[row]` to the activation, at a fixed norm.

    Added in the activation's own dtype and on its device, so fp32 vectors steer a bf16 model.

    Args:
        site: the hook point, or its name (see `Perturbation`).
        vectors: what is added, one row per edit, or one vector.
        radius: the norm that `project_` keeps; `None` takes the rows' mean norm.
    """

    @typed
    @refuses
    def __init__(
        self,
        site: Point,
        vectors: Float[Tensor, "*vec width"],
        *,
        radius: float | int | None = None,
        positions: Positions = EVERYWHERE,
    ) -> None:
        vectors = as_rows(vectors)
        super().__init__(site_of(site, vectors), positions=positions)
        refuse_rows(self, "vectors", vectors)
        if not (radius is None or (isinstance(radius, (int, float)) and radius >= 0)):
            raise SettingError(
                f"radius={radius!r}: expected a number, or None for their mean norm."
            )
        self.radius = float(vectors.norm(dim=1).mean()) if radius is None else float(radius)
        self.vectors = nn.Parameter(vectors.detach().clone())

    def form(self) -> dict[str, Any]:
        return {}

    @classmethod
    def packed_width(cls, site: Site, form: Mapping[str, Any]) -> int:
        return site.width

    @classmethod
    def unpack(
        cls,
        site: Site,
        rows: Float[Tensor, "vec n"],
        *,
        radius: float | int,
        positions: Positions,
        form: Mapping[str, Any],
    ) -> "Additive":
        return cls(site, rows, radius=radius, positions=positions)

    def scaled(self, factors: float | int | Float[Tensor, " vec"]) -> "Additive":
        """Longer or shorter vectors: x + s v."""
        twin = self.select(slice(None))
        times = torch.as_tensor(factors, dtype=torch.float32, device="cpu").expand(len(self))
        with torch.no_grad():
            twin.vectors.mul_(times[:, None].to(twin.vectors))
            twin.vectors[times == 0] = 0  # an infinite one, too
        return twin

    def lengths(self) -> Float[Tensor, " vec"]:
        """The vectors' own: a merged bank has several."""
        norms: Tensor = self.vectors.detach().float().cpu().norm(dim=1)
        return norms

    def forward(
        self, activation: Float[Tensor, "batch pos width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        # index_select: its backward adds up quickly, where plain indexing's sorts first.
        chosen = self.vectors.index_select(0, rows.to(self.vectors.device))
        return activation + chosen[:, None].to(activation)

    @torch.no_grad()
    def project_(self) -> None:
        self.vectors.copy_(to_sphere(self.vectors, self.radius))
