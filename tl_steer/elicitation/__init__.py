"""Learning a bank: where a search starts, the run and its checkpoints, which layers to take, and
many searches at once.

Imports `radii` and what lies below.
"""

from tl_steer.elicitation.elicit import elicit as elicit
from tl_steer.elicitation.grid import grid as grid
from tl_steer.elicitation.grid_plan import GridPlan as GridPlan
from tl_steer.elicitation.places import (
    Place as Place,
    Places as Places,
    scan_contrast as scan_contrast,
)
from tl_steer.elicitation.scan import Pair as Pair, Scan as Scan, scan as scan
from tl_steer.elicitation.start import (
    Adapters as Adapters,
    Layers as Layers,
    Start as Start,
)
from tl_steer.elicitation.store import Store as Store, load_grid as load_grid
