"""What is maximised: divergences and penalties, and an objective made of one on a segment.

Also the mean response of a perturbation and its derivatives, which methods climb by. Imports
`models` and what lies below.
"""

from tl_steer.objectives.divergence import (
    Clean as Clean,
    Cosine as Cosine,
    Displacement as Displacement,
    Divergence as Divergence,
    Measured as Measured,
    PerVector as PerVector,
    Steered as Steered,
    at_least_float32 as at_least_float32,
    mean_response as mean_response,
)
from tl_steer.objectives.objective import (
    Evaluation as Evaluation,
    Objective as Objective,
    in_parts as in_parts,
)
from tl_steer.objectives.output_kl import (
    OutputKL as OutputKL,
    Readout as Readout,
    divergence_from as divergence_from,
    next_token as next_token,
    readout as readout,
)
from tl_steer.objectives.response import (
    Derivative as Derivative,
    Pool as Pool,
    ResponseMap as ResponseMap,
    stacked_response as stacked_response,
)
from tl_steer.objectives.weighted import Weighted as Weighted
