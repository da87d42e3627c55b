"""tl-steer grid."""

import json
from pathlib import Path
from typing import Annotated

import typer

import tl_steer as ts
from tl_steer.cli.app import INTERRUPTED, JsonOption, new_file, print_table, tell
from tl_steer.errors import SettingError


def grid(
    plan: Annotated[Path, typer.Argument(help="A TOML file: sources, targets, prompts, ...")],
    save: Annotated[
        Path, typer.Option(callback=new_file, help="A folder for the banks and their index.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the grid in the --save folder.")
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Work on Ray, with so many workers; 0 for this process alone.")
    ] = 0,
    cpus: Annotated[float, typer.Option(help="Of each worker.")] = 1.0,
    gpus: Annotated[float, typer.Option(help="Of each worker; 0.25 puts four on a card.")] = 0.0,
    address: Annotated[
        str, typer.Option(help="Of a Ray cluster, with --workers; this machine if left out.")
    ] = "",
    view: Annotated[
        Path | None, typer.Option(help="A page with the sensitivity of all pairs as a heat map.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search every combination of layers, radii, methods, seeds and prompts in a plan.

    Ends with 1 where a cell failed and with 130 after Ctrl-C; the others' banks are there.
    """
    from tl_steer.elicitation.grid_plan import GridPlan
    from tl_steer.views.view import ending

    if (cpus != 1 or gpus or address) and not workers:
        raise SettingError("--cpus, --gpus and --address are for workers: give --workers as well.")
    if view is not None:
        ending(view)  # before the search
    asked = GridPlan.read(plan)
    engine = None
    if workers:
        engine = ts.models.Ray(workers=workers, cpus=cpus, gpus=gpus, address=address or None)
    found = ts.elicitation.grid(
        asked,
        save=None if resume else save,
        resume=save if resume else None,
        engine=engine,
        after=ts.sweeps.Swept.of(asked.sweep) if asked.sweep else None,
        progress=not as_json,
    )
    if view is not None:
        ts.views.scan_view(found).save(view)
    if as_json:
        rows = [{k: None if v != v else v for k, v in row.items()} for row in found.rows]
        print(json.dumps({"folder": str(save), "finished": found.finished, "rows": rows}))
    else:
        print_table(found.table())
        tell(f"Banks in {save}; ts.elicitation.load_grid reads them.")
    if not found.finished:
        told = f"Stopped before the end; the finished cells are in {save}."
        tell(f"{told} The same command with --resume goes on.", aside=True)
        raise typer.Exit(INTERRUPTED)
    if found.failures():
        raise typer.Exit(1)  # so that a script does not go on with what is not all there
