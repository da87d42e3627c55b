"""Where in a model something happens: a hook point (`Site`), and which tokens (`Positions`).

Imports `files`.
"""

from tl_steer.hook_points.positions import (
    EVERYWHERE as EVERYWHERE,
    GENERATED as GENERATED,
    LAST_THREE as LAST_THREE,
    PROMPT as PROMPT,
    Positions as Positions,
)
from tl_steer.hook_points.registry import (
    HookKind as HookKind,
    kind_of as kind_of,
    kinds as kinds,
    register as register,
    stage_of as stage_of,
)
from tl_steer.hook_points.site import PATTERN as PATTERN, Point as Point, Site as Site
