"""How long vectors should be: radius rules, dose and response, and the band between paraphrase and
gibberish.

Imports `banks` and what lies below.
"""

from tl_steer.radii.band import Band as Band, Dose as Dose, DoseResponse as DoseResponse
from tl_steer.radii.dose import (
    SHARES as SHARES,
    Group as Group,
    Sweep as Sweep,
    dose_response as dose_response,
)
from tl_steer.radii.fluency import Judge as Judge, repetition as repetition
from tl_steer.radii.inband import AUTO as AUTO, InBand as InBand
from tl_steer.radii.rules import (
    Calibrated as Calibrated,
    RadiusRule as RadiusRule,
    ShareOfNorm as ShareOfNorm,
)
