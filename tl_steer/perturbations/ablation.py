r"""Directions taken out.

$$x \mapsto x - \langle x, d\rangle\, d, \qquad \|d\| = 1$$

Source: directional ablation, Arditi et al., "Refusal in language models is mediated by a single
direction" (2024), equation 4. There it is done at every layer; here at one hook point, or at
several with `MultiSite`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from tl_steer.files.signatures import refuses
from tl_steer.hook_points.positions import EVERYWHERE, Positions
from tl_steer.hook_points.site import Point
from tl_steer.perturbations.directions import as_rows, refuse_rows, site_of
from tl_steer.perturbations.kinds import register
from tl_steer.perturbations.perturbation import Perturbation


@register("ablation")
class Ablation(Perturbation):
    """Project a direction out of the activation.

    Args:
        site: the hook point, or its name (see `Perturbation`).
        directions: one row per edit, or one vector; normalised.
        radius: not used, since a direction has no length.

    Wrong to use where the model does not write along the direction: then nothing changes, and
    nothing says so but a response of about 0.

    Raises:
        ShapeError: directions that do not fit the site.
    """

    radius_is_norm = False

    @refuses
    def __init__(
        self,
        site: Point,
        directions: Float[Tensor, "*vec width"],
        *,
        radius: float | int = 1.0,
        positions: Positions = EVERYWHERE,
    ) -> None:
        directions = as_rows(directions)
        super().__init__(site_of(site, directions), radius=radius, positions=positions)
        refuse_rows(self, "directions", directions)
        self.directions = nn.Parameter(normalize(directions.detach(), dim=1))

    def forward(
        self, activation: Float[Tensor, "batch pos width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        d = self.directions.index_select(0, rows.to(self.directions.device))[:, None].to(activation)
        return activation - (activation * d).sum(dim=-1, keepdim=True) * d

    @torch.no_grad()
    def project_(self) -> None:
        self.directions.copy_(normalize(self.directions, dim=1))
