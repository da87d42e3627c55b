"""How long vectors should be: radius rules, dose and response, and the band between paraphrase and
gibberish.

Imports `banks` and what lies below.
"""

from tl_steer.radii.band import Band, Dose, DoseResponse
from tl_steer.radii.dose import SHARES, Group, Sweep, dose_response
from tl_steer.radii.fluency import Judge, repetition
from tl_steer.radii.inband import AUTO, InBand
from tl_steer.radii.rules import Calibrated, RadiusRule, ShareOfNorm

__all__ = [
    "AUTO",
    "SHARES",
    "Band",
    "Calibrated",
    "Dose",
    "DoseResponse",
    "Group",
    "InBand",
    "Judge",
    "RadiusRule",
    "ShareOfNorm",
    "Sweep",
    "dose_response",
    "repetition",
]
