"""Python's random numbers, left as the user has them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def draws_kept() -> Iterator[None]:
    """Inside, others may draw (beartype picks what it looks at, rich draws when it is imported);
    behind it Python's random numbers go on as they would have."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
