"""tl-steer on the command line: a file for each verb."""

import sys
from typing import NoReturn

from rich.console import Console
from rich.text import Text

from tl_steer.cli import audit, demo, elicit, export, generate, grid, notes, report, serve, sweep
from tl_steer.cli.app import app
from tl_steer.errors import SteerError
from tl_steer.files.text import one_line

__all__ = ["app", "main"]


def main() -> NoReturn:
    """Errors that a user can act on end with one line and exit code 1; usage errors with 2."""

    try:
        app()
    except SteerError as error:
        fail(str(error))
    except OSError as error:  # a file of another kind than those that have errors of their own
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}")
    sys.exit(0)


def fail(message: str) -> NoReturn:
    line = Text(f"Error: {one_line(message)}", style="red")
    Console(stderr=True).print(line, soft_wrap=True)
    sys.exit(1)
