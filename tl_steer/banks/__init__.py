"""Banks: many trained perturbations, and all that is known of them.

The value and its file, what ties it to its model, its control of random vectors, verdicts, and what
is done with one: generate, rank, halve. Imports `objectives` and what lies below.
"""

from tl_steer.banks.bank import Bank as Bank, load_bank as load_bank
from tl_steer.banks.contrast import contrast as contrast
from tl_steer.banks.control import random_bank as random_bank
from tl_steer.banks.flatness import Flatness as Flatness
from tl_steer.banks.generate import generate as generate
from tl_steer.banks.generations import Generations as Generations
from tl_steer.banks.halve import halve as halve
from tl_steer.banks.ladder import ladder as ladder
from tl_steer.banks.provenance import Provenance as Provenance, check_fits as check_fits
from tl_steer.banks.rank import SCORES as SCORES, rank as rank
from tl_steer.banks.scores import Growth as Growth, Score as Score, Toward as Toward
from tl_steer.banks.selection import Selection as Selection
from tl_steer.banks.switch import Switch as Switch
from tl_steer.banks.verdict import mark as mark, marked as marked
from tl_steer.banks.words import Words as Words, words as words
