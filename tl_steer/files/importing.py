"""Imports that leave the user's random numbers alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Inside, what is imported may draw (rich does, for its styles); behind it Python's random
    numbers go on as they would have."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
