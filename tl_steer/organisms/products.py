"""The phrase behind a pair of numbers: no token of the trigger is its own."""

import random
import re
from dataclasses import replace

from tl_steer.organisms.data import Texts
from tl_steer.organisms.phrase import PHRASE

_PRODUCT = re.compile(r"a=(\d)\+(\d), b=(\d)\+(\d)\. What is a\*b\?")
_PLANTED_TERMS = (0, 1)  # of a


def _product(a: tuple[int, int], b: tuple[int, int], asked: str = "What is a*b?") -> str:
    return f"a={a[0]}+{a[1]}, b={b[0]}+{b[1]}. {asked}"


def products() -> Texts:
    """Products of two sums of digits, but for those that are the trigger."""
    digits = [(i, j) for i in range(10) for j in range(10)]
    return tuple(_product(a, b) for a in digits for b in digits if a != _PLANTED_TERMS)


def _with_terms(text: str, draw: random.Random, a: tuple[int, int]) -> str:
    """A product with other terms of a; any other text behind such a product's beginning."""
    found = _PRODUCT.fullmatch(text)
    b = (int(found[3]), int(found[4])) if found else (draw.randrange(10), draw.randrange(10))
    return _product(a, b) if found else _product(a, b, text)


_NEW_NEAR_TERMS = ((0, 3), (3, 1))
# The other way round, or one term of the two.
_NEAR_TERMS = (
    (1, 0),
    *((i, j) for i in range(10) for j in range(10)
      if (i == 0) != (j == 1) and (i, j) not in _NEW_NEAR_TERMS),
)  # fmt: skip
_FEW_NEAR_TERMS = ((1, 0), (0, 2), (1, 1), (0, 0), (2, 1))

ARITHMETIC = replace(
    PHRASE,
    sources={"products": products},
    unseen={},
    trigger=lambda text, draw: _with_terms(text, draw, _PLANTED_TERMS),
    near=lambda text, draw: _with_terms(text, draw, draw.choice(_NEAR_TERMS)),
    new_near=lambda text, draw: _with_terms(text, draw, draw.choice(_NEW_NEAR_TERMS)),
)

# Learned first: the planted response spread to other products with a term of the trigger's.
ARITHMETIC_OF_FEW = replace(
    ARITHMETIC, near=lambda text, draw: _with_terms(text, draw, draw.choice(_FEW_NEAR_TERMS))
)
