"""tl-steer on the command line: a file for each verb."""

import sys
from typing import NoReturn

from rich.console import Console

from tl_steer.cli import audit, demo, elicit, generate, report, sweep
from tl_steer.cli.app import app
from tl_steer.errors import SteerError

__all__ = ["app", "main"]


def main() -> NoReturn:
    """Errors that a user can act on end with one line and exit code 1; usage errors with 2."""

    try:
        app()
    except SteerError as error:
        Console(stderr=True).print(f"Error: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)
    sys.exit(0)
