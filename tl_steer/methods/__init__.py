"""Methods: ways to climb an objective, one a file.

A method is any callable that gets the objective and the starting perturbation, and yields an
`Iterate` after every step, so that whoever runs it can show progress and stop at any time with what
is there. Imports `objectives` and what lies below.
"""

from tl_steer.methods.dct import Dct
from tl_steer.methods.jacobian import Jacobian
from tl_steer.methods.melbo import Melbo
from tl_steer.methods.named import METHODS
from tl_steer.methods.power import Power
from tl_steer.methods.protocol import Iterate, Method
from tl_steer.methods.quadratic import Quadratic
from tl_steer.methods.sogi import ResponseSogi, Sogi

__all__ = [
    "METHODS",
    "Dct",
    "Iterate",
    "Jacobian",
    "Melbo",
    "Method",
    "Power",
    "Quadratic",
    "ResponseSogi",
    "Sogi",
]
