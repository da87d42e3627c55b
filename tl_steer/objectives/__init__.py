"""What is maximised: divergences and penalties, and an objective made of one on a segment.

Also the mean response of a perturbation and its derivatives, which methods climb by. Imports
`models` and what lies below.
"""

from tl_steer.objectives.divergence import (
    Cosine,
    Displacement,
    Divergence,
    at_least_float32,
    mean_per_prompt,
    mean_response,
    prompt_responses,
)
from tl_steer.objectives.objective import Evaluation, Objective, in_parts
from tl_steer.objectives.output_kl import OutputKL, Readout, divergence_from, next_token, readout
from tl_steer.objectives.penalty import Differential, OffManifold, Population, Weighted
from tl_steer.objectives.response import Derivative, Pool, ResponseMap, stacked_response

__all__ = [
    "Cosine",
    "Derivative",
    "Differential",
    "Displacement",
    "Divergence",
    "Evaluation",
    "Objective",
    "OffManifold",
    "OutputKL",
    "Pool",
    "Population",
    "Readout",
    "ResponseMap",
    "Weighted",
    "at_least_float32",
    "divergence_from",
    "in_parts",
    "mean_per_prompt",
    "mean_response",
    "next_token",
    "prompt_responses",
    "readout",
    "stacked_response",
]
