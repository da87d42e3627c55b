"""tl-steer on the command line: a file for each verb.

A command imports what it needs when it is called, so `--help` and completion are there at once.
"""

import os
import sys
import warnings
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from tl_steer.cli.app import app
from tl_steer.cli.audit import audit
from tl_steer.cli.demo import demo
from tl_steer.cli.doctor import doctor
from tl_steer.cli.elicit import elicit, show
from tl_steer.cli.export import export, import_
from tl_steer.cli.generate import dose, generate
from tl_steer.cli.grid import grid
from tl_steer.cli.notes import notes
from tl_steer.cli.report import report
from tl_steer.cli.serve import serve
from tl_steer.cli.sweep import sweep
from tl_steer.errors import SteerError, plain

__all__ = ["app", "main"]

# In the order in which they are used, and so listed.
for _command in (demo, elicit, show, generate, dose, sweep, report, notes, serve, audit, grid):
    app.command()(_command)
app.command()(export)
app.command("import")(import_)
app.command()(doctor)


def main() -> NoReturn:
    """Errors that a user can act on end with one line and exit code 1, usage errors with 2, and
    Ctrl-C with 130."""
    if not sys.stderr.isatty() and "--verbose" not in sys.argv:
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of loaders, in a log file
    warnings.showwarning = _warn  # one line, without the place in our code
    try:
        app()
    except SteerError as error:
        fail(str(error))
    except OSError as error:  # a file of another kind than those that have errors of their own
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}")
    sys.exit(0)


def fail(message: str) -> NoReturn:
    _say(f"Error: {message}", "red")
    sys.exit(1)


def _warn(message: Warning | str, *_where: Any, **_more: Any) -> None:
    _say(f"Warning: {message}", "yellow")


def _say(message: str, style: str) -> None:
    line = Text(plain(" ".join(message.split())), style=style)
    Console(stderr=True).print(line, soft_wrap=True)
