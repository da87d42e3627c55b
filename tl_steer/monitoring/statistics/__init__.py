"""From scores to alarms: categories of requests, common scales, p-values, drift.

Numbers in, numbers out. Imports `errors` and `files`.
"""

from tl_steer.monitoring.statistics.categories import Categories, Clusters, Grouping
from tl_steer.monitoring.statistics.conformal import (
    Guarantee,
    benjamini_hochberg,
    needed,
    p_values,
    threshold,
)
from tl_steer.monitoring.statistics.drift import Drift
from tl_steer.monitoring.statistics.level import Cusum, Level, Peak, Pool

__all__ = [
    "Categories",
    "Clusters",
    "Cusum",
    "Drift",
    "Grouping",
    "Guarantee",
    "Level",
    "Peak",
    "Pool",
    "benjamini_hochberg",
    "needed",
    "p_values",
    "threshold",
]
