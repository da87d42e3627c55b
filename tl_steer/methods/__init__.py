"""Methods: ways to climb an objective. One file each; a method is any callable with this signature.

A method gets the objective and the starting perturbation, and yields an `Iterate` after every step,
so that whoever runs it can show progress and stop at any time with what is there.
"""

from tl_steer.methods.melbo import Melbo
from tl_steer.methods.power import Power
from tl_steer.methods.protocol import Iterate, Method

__all__ = ["Iterate", "Melbo", "Method", "Power"]
