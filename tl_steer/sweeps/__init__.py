"""A bank over many inputs: prompts from anywhere, metrics and scorers, cells on disk, statistics.

Imports `radii` (fluency) and what lies below.
"""

from tl_steer.sweeps.endpoint import judged
from tl_steer.sweeps.interval import Interval
from tl_steer.sweeps.metric import METRICS, Metric, Reading, alignment
from tl_steer.sweeps.prompts import PromptSource, source_of
from tl_steer.sweeps.result import SweepResult, load_sweep
from tl_steer.sweeps.scorer import Scorer, refusal, regex
from tl_steer.sweeps.sweep import sweep
from tl_steer.sweeps.systematic import Evidence

__all__ = [
    "METRICS",
    "Evidence",
    "Interval",
    "Metric",
    "PromptSource",
    "Reading",
    "Scorer",
    "SweepResult",
    "alignment",
    "judged",
    "load_sweep",
    "refusal",
    "regex",
    "source_of",
    "sweep",
]
