r"""Vectors that turn an activation and leave it as long as it was.

$$x \mapsto \|x\|\,\frac{x + v}{\|x + v\|}$$

A long vector otherwise makes every later layer norm see little but itself; here a vector of any
length leaves the norm alone, and at most replaces the direction by its own. (The usual remedy for
incoherent text under additive steering, as in the repeng and abliteration code bases.)
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.kinds import register


@register("norm_preserving")
class NormPreserving(Additive):
    """Add a vector, then restore the activation's norm.

    Args:
        site: the hook point, or its name (see `Perturbation`).
        vectors: what is added, one row per edit, or one vector.
        radius: the norm that `project_` keeps; `None` takes the rows' mean norm.

    Wrong to use to compare with published additive results, and at hook points whose norm carries
    meaning (queries and keys).
    """

    def forward(
        self, activation: Float[Tensor, "batch pos width"], rows: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch pos width"]:
        added = super().forward(activation, rows)
        tiny = torch.finfo(added.dtype).tiny
        before, after = (x.norm(dim=-1, keepdim=True) for x in (activation, added))
        turned: Tensor = added * (before / after.clamp_min(tiny))
        return turned
