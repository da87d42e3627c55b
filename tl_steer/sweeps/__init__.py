"""A bank over many inputs: prompts from anywhere, metrics and scorers, cells on disk, statistics.

Imports `radii` (fluency) and what lies below.
"""

from tl_steer.sweeps.endpoint import judged as judged
from tl_steer.sweeps.inspect_scorer import inspect_scorer as inspect_scorer
from tl_steer.sweeps.interval import Interval as Interval
from tl_steer.sweeps.metric import (
    METRICS as METRICS,
    Metric as Metric,
    Reading as Reading,
    alignment as alignment,
)
from tl_steer.sweeps.prompts import PromptSource as PromptSource, source_of as source_of
from tl_steer.sweeps.result import SweepResult as SweepResult, load_sweep as load_sweep
from tl_steer.sweeps.scorer import Scorer as Scorer, refusal as refusal, regex as regex
from tl_steer.sweeps.sweep import sweep as sweep
from tl_steer.sweeps.swept import Swept as Swept
from tl_steer.sweeps.systematic import Evidence as Evidence
