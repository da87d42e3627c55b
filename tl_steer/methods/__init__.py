"""Methods: ways to climb an objective. One file each; a method is any callable with this signature.

A method gets the objective and the starting perturbation, and yields an `Iterate` after every step,
so that whoever runs it can show progress and stop at any time with what is there.
"""

from collections.abc import Callable

from tl_steer.methods.dct import Dct
from tl_steer.methods.jacobian import Jacobian
from tl_steer.methods.melbo import Melbo
from tl_steer.methods.power import Power
from tl_steer.methods.protocol import Iterate, Method
from tl_steer.methods.quadratic import Quadratic
from tl_steer.methods.sogi import ResponseSogi, Sogi

# By the name that `elicit(method=...)` knows. "auto" is what docs/methods.md found to be best.
METHODS: dict[str, Callable[[], Method]] = {
    "auto": Power,
    "power": Power,
    "melbo": Melbo,
    "jacobian": Jacobian,
    "dct": Dct,
    "quadratic": Quadratic,
    "sogi": Sogi,
    "response-sogi": ResponseSogi,
}

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
