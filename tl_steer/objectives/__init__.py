"""What is maximised: divergences and penalties, and an objective made of one on a segment.

Also the mean response of a perturbation and its derivatives, which methods climb by. Imports
`models` and what lies below.
"""

from tl_steer.objectives.contrast import Contrast as Contrast
from tl_steer.objectives.divergence import (
    Clean as Clean,
    Cosine as Cosine,
    Displacement as Displacement,
    Divergence as Divergence,
    Measured as Measured,
    PerVector as PerVector,
    Steered as Steered,
    mean_response as mean_response,
)
from tl_steer.objectives.named import DIVERGENCES as DIVERGENCES
from tl_steer.objectives.objective import (
    Evaluation as Evaluation,
    Goal as Goal,
    Objective as Objective,
)
from tl_steer.objectives.output_kl import OutputKL as OutputKL
from tl_steer.objectives.response import (
    Pool as Pool,
    ResponseMap as ResponseMap,
    stacked_response as stacked_response,
)
from tl_steer.objectives.substitution import Substitution as Substitution
from tl_steer.objectives.weighted import Weighted as Weighted
