r"""Directions taken out.

$$x \mapsto x - \langle x, d\rangle\, d, \qquad \|d\| = 1$$

Source: directional ablation, Arditi et al., "Refusal in language models is mediated by a single
direction" (2024), equation 4. There it is done at every layer; here at one hook point, or at
several with `MultiSite`.
"""

from tl_steer.perturbations.clamp import Clamp
from tl_steer.perturbations.kinds import register


@register("ablation")
class Ablation(Clamp):
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

    @property
    def value(self) -> float:
        return 0.0
