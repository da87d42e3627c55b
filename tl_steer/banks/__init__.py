"""Banks: many trained perturbations, and all that is known of them.

The value and its file, what ties it to its model, its control of random vectors, verdicts, and what
is done with one: generate, rank, halve. Imports `objectives` and what lies below.
"""

from tl_steer.banks.adopt import adopt
from tl_steer.banks.bank import Bank, largest
from tl_steer.banks.control import random_bank
from tl_steer.banks.file import load_bank
from tl_steer.banks.fingerprint import Fingerprint, fingerprint, same_model
from tl_steer.banks.generate import generate
from tl_steer.banks.generations import Generations
from tl_steer.banks.halve import halve
from tl_steer.banks.provenance import Provenance, check_fits, describe
from tl_steer.banks.rank import SCORES, Exponent, Score, Toward, rank
from tl_steer.banks.selection import Round, Selection
from tl_steer.banks.verdict import VERDICTS, mark, marked, verdict_of

__all__ = [
    "SCORES",
    "VERDICTS",
    "Bank",
    "Exponent",
    "Fingerprint",
    "Generations",
    "Provenance",
    "Round",
    "Score",
    "Selection",
    "Toward",
    "adopt",
    "check_fits",
    "describe",
    "fingerprint",
    "generate",
    "halve",
    "largest",
    "load_bank",
    "mark",
    "marked",
    "random_bank",
    "rank",
    "same_model",
    "verdict_of",
]
