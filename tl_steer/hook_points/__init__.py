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
from tl_steer.hook_points.site import (
    RESIDUAL_STREAM as RESIDUAL_STREAM,
    STAGES as STAGES,
    Site as Site,
)
