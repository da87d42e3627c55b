"""Methods: ways to climb an objective, one a file.

A method is any callable that gets the objective and the starting perturbation, and yields an
`Iterate` after every step, so that whoever runs it can show progress and stop at any time with what
is there. Imports `objectives` and what lies below.
"""

from tl_steer.methods.ascent import Ascent as Ascent
from tl_steer.methods.clean_difference import (
    CleanComponents as CleanComponents,
    MeanDifference as MeanDifference,
)
from tl_steer.methods.compiled import Compiled as Compiled
from tl_steer.methods.dct import Dct as Dct
from tl_steer.methods.jacobian import Jacobian as Jacobian
from tl_steer.methods.melbo import Melbo as Melbo
from tl_steer.methods.named import METHODS as METHODS, method_of as method_of
from tl_steer.methods.power import Power as Power
from tl_steer.methods.protocol import (
    Iterate as Iterate,
    Method as Method,
    evaluated as evaluated,
)
from tl_steer.methods.quadratic import Quadratic as Quadratic
from tl_steer.methods.replayed import Replayed as Replayed
from tl_steer.methods.sogi import Sogi as Sogi
from tl_steer.methods.weight_difference import WeightDifference as WeightDifference
from tl_steer.methods.within import Within as Within
