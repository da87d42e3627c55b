"""What loaders say while they load, kept away from what commands print."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, notices or prints; a download's bar stays, since that can take long, and warnings
    and errors do."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stdout(io.StringIO()):  # HookedTransformer prints what it has loaded
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def to_stderr() -> Iterator[None]:
    """All of it, but not among results."""
    with redirect_stdout(sys.stderr):
        yield
