"""Perturbations: trainable edits of one hook point, one kind a file; and the geometry of the sphere.

No model is needed here. Imports `hook_points` and `errors`.
"""

from tl_steer.perturbations.adapter import Adapter
from tl_steer.perturbations.additive import Additive
from tl_steer.perturbations.kinds import KINDS
from tl_steer.perturbations.perturbation import Edit, HookFunction, Hooks, Packable, Perturbation
from tl_steer.perturbations.sphere import (
    cosines,
    distinct_rows,
    orthonormal_rows,
    random_on_sphere,
    softly_apart,
    softly_off_larger,
    spread_apart,
    to_sphere,
    to_tangent,
)

__all__ = [
    "KINDS",
    "Adapter",
    "Additive",
    "Edit",
    "HookFunction",
    "Hooks",
    "Packable",
    "Perturbation",
    "cosines",
    "distinct_rows",
    "orthonormal_rows",
    "random_on_sphere",
    "softly_apart",
    "softly_off_larger",
    "spread_apart",
    "to_sphere",
    "to_tangent",
]
