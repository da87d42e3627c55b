"""A divergence made of several: an objective, and penalties beside it.

Weighted(((1.0, Displacement()), (-0.1, OutputKL(model))))
"""

from dataclasses import dataclass

import torch

from tl_steer.errors import SettingError
from tl_steer.files.signatures import typed_fields
from tl_steer.hook_points.site import Site
from tl_steer.objectives.divergence import (
    Clean,
    Divergence,
    Measured,
    PerVector,
    Steered,
    refuse_target,
)
from tl_steer.objectives.named import divergence_of


@typed_fields
@dataclass(frozen=True)
class Weighted:
    r"""$\sum_k w_k f_k$: an objective, with penalties where a weight is negative.

    Args:
        parts: (weight, divergence) pairs; names stand for divergences.

    Units add up as they are: a displacement grows with the radius and the number of prompts, a KL
    is in nats, a cosine is at most 2 a prompt. Look at each part's own size before you weigh them;
    with a penalty too heavy, the best perturbation is the one that does nothing.
    """

    parts: tuple[tuple[float | int, Divergence | str], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple((w, divergence_of(f)) for w, f in self.parts))
        weights = [w for w, _ in self.parts]
        if not weights or not all(-float("inf") < w < float("inf") for w in weights):
            raise SettingError(f"Weighted: expected at least one finite weight, got {weights}.")

    def refuse_target(self, target: Site) -> None:
        """Raise where one of the parts cannot be measured."""
        for _, divergence in self.parts:
            refuse_target(divergence_of(divergence), target)

    def __call__(self, steered: Steered, clean: Clean, measured: Measured) -> PerVector:
        values = [w * divergence_of(f)(steered, clean, measured) for w, f in self.parts]
        return torch.stack(values).sum(dim=0)
