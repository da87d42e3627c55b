r"""The component along a direction, set to one value.

$$x \mapsto x + (R - \langle x, d\rangle)\, d, \qquad \|d\| = 1$$

Source: feature clamping, Templeton et al., "Scaling monosemanticity" (2024), there of a sparse
autoencoder's features. `Ablation` is R = 0.
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


@register("clamp")
class Clamp(Perturbation):
    """Set the activation's component along a direction.

    Args:
        site: the hook point, or its name (see `Perturbation`).
        directions: one row per edit, or one vector; normalised.
        radius: what the component is set to, in units of the activation. Where it is used at
            another strength s, the component goes s of the way there.

    Wrong to use to *add* a concept by some amount, which is `Additive`: a token that has more of
    the direction than R loses some.

    Raises:
        ShapeError: directions that do not fit the site.
    """

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

    @property
    def value(self) -> float:
        """What the component is set to."""
        return self.radius

    def forward(
        self, activation: Float[Tensor, "batch pos width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        d = self.directions.index_select(0, rows.to(self.directions.device))[:, None].to(activation)
        return activation + (self.value - (activation * d).sum(dim=-1, keepdim=True)) * d

    @torch.no_grad()
    def project_(self) -> None:
        self.directions.copy_(normalize(self.directions, dim=1))
