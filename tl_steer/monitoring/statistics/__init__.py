"""From scores to alarms: categories of requests, common scales, p-values, drift.

Numbers in, numbers out. Imports `errors` and `files`.
"""

from tl_steer.monitoring.statistics.categories import (
    Categories as Categories,
    Clusters as Clusters,
    Grouping as Grouping,
)
from tl_steer.monitoring.statistics.conformal import (
    Guarantee as Guarantee,
    needed as needed,
    p_values as p_values,
    threshold as threshold,
)
from tl_steer.monitoring.statistics.drift import Drift as Drift
