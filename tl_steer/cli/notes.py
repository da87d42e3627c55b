"""tl-steer notes: what was written into a report's page, and its way into the bank."""

import json
from pathlib import Path
from typing import Annotated

import typer

import tl_steer as ts
from tl_steer.cli.app import JsonOption, new_file, print_table, tell


def notes(
    report: Annotated[Path, typer.Argument(help="The page that Save copy wrote in a report.")],
    bank: Annotated[
        Path | None, typer.Argument(help="The bank that the report is about, to write them into.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(callback=new_file, help="Where the bank goes; in its own place if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the notes of a report, and write them into the bank, as labels and comments.

    Without a bank they are only printed. A bank stays whole until the new one is complete.
    """
    found = ts.views.notes(report)
    if out is not None and bank is None:
        raise ts.errors.SettingError("--out is where the bank goes: name the bank too.")
    saved = None if bank is None else found.onto(ts.load_bank(bank)).save(out or bank)
    if as_json:
        print(json.dumps(found.to_json() | {"saved": None if saved is None else str(saved)}))
        return
    print_table(found.table(most=len(found)))
    if saved is not None:
        tell(f"Bank: {saved}")
