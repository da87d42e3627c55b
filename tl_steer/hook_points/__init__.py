"""Where in a model something happens: a hook point (`Site`), and which tokens (`Positions`).

Imports `errors` alone.
"""

from tl_steer.hook_points.positions import EVERYWHERE, LAST_THREE, Positions
from tl_steer.hook_points.site import RESIDUAL_STREAM, STAGES, Site

__all__ = [
    "EVERYWHERE",
    "LAST_THREE",
    "RESIDUAL_STREAM",
    "STAGES",
    "Positions",
    "Site",
]
