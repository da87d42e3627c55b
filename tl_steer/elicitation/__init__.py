"""Learning a bank: where a search starts, the run and its checkpoints, and which layers to take.

Imports `methods`, `radii` and what lies below.
"""

from tl_steer.elicitation.elicit import elicit
from tl_steer.elicitation.scan import Pair, Scan, scan
from tl_steer.elicitation.start import Adapters, Start, Vectors

__all__ = [
    "Adapters",
    "Pair",
    "Scan",
    "Start",
    "Vectors",
    "elicit",
    "scan",
]
