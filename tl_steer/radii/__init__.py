"""How long vectors should be: radius rules, dose and response, and the band between paraphrase and
gibberish.

Imports `banks` and what lies below.
"""

from tl_steer.radii.band import Band as Band, Dose as Dose, DoseResponse as DoseResponse
from tl_steer.radii.dose import dose_response as dose_response
from tl_steer.radii.inband import InBand as InBand
from tl_steer.radii.rules import (
    Calibrated as Calibrated,
    RadiusRule as RadiusRule,
    ShareOfNorm as ShareOfNorm,
)
