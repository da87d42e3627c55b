"""Perturbations: trainable edits of one hook point, one kind a file; the geometry of the sphere.

No model is needed here. Imports `hook_points` and what lies below.
"""

from tl_steer.perturbations.ablation import Ablation as Ablation
from tl_steer.perturbations.adapter import Adapter as Adapter
from tl_steer.perturbations.additive import Additive as Additive
from tl_steer.perturbations.clamp import Clamp as Clamp
from tl_steer.perturbations.edit import Edit as Edit
from tl_steer.perturbations.gated import Gated as Gated
from tl_steer.perturbations.kinds import register as register
from tl_steer.perturbations.multi_site import MultiSite as MultiSite
from tl_steer.perturbations.norm_preserving import NormPreserving as NormPreserving
from tl_steer.perturbations.perturbation import (
    HookFunction as HookFunction,
    Hooks as Hooks,
    Perturbation as Perturbation,
    Scale as Scale,
)
from tl_steer.perturbations.sphere import (
    cosines as cosines,
    random_on_sphere as random_on_sphere,
    to_sphere as to_sphere,
)
