"""tl-steer sweep."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import tl_steer as ts
from tl_steer.cli.app import (
    INTERRUPTED,
    BankArgument,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    PositionsOption,
    RawOption,
    ScaleOption,
    VectorOption,
    loaded,
    new_file,
    out,
    picked,
    positions_of,
    print_table,
    tell,
)
from tl_steer.errors import SettingError

# Columns of a terminal in which every number has room for its interval.
_WIDE = 120


def sweep(
    bank: BankArgument,
    prompts: Annotated[
        Path,
        typer.Option(help="A file: text with a prompt a line, .jsonl, .csv or .parquet."),
    ],
    save: Annotated[
        Path | None,
        typer.Option(
            callback=new_file, help="A folder for every vector's numbers on every prompt."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in the --save folder.")
    ] = False,
    column: Annotated[str | None, typer.Option(help="The file's column of prompts.")] = None,
    ids: Annotated[str | None, typer.Option(help="The file's column of ids.")] = None,
    model: ModelOption = "smollm2",
    device: DeviceOption = "",
    dtype: DtypeOption = "float32",
    vector: VectorOption = None,
    scale: ScaleOption = 1.0,
    positions: PositionsOption = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="By name; repeat. The first is what verdicts rest on: unless given, "
            "shared_phrase with --generate and kl without.",
        ),
    ] = None,
    regex: Annotated[
        list[str] | None,
        typer.Option("--regex", help="Count continuations in which this occurs; repeat."),
    ] = None,
    refusals: Annotated[
        bool, typer.Option("--refusals", help="Count continuations that decline.")
    ] = False,
    generate: Annotated[int, typer.Option(help="Length of continuations; 0 for none.")] = 0,
    n_random: Annotated[int, typer.Option(help="Random vectors beside the bank's.")] = 64,
    truncate: Annotated[
        int | None, typer.Option(help="Keep the last so many tokens of longer prompts.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Memory for one pass, in GiB.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the random vectors.")] = 0,
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a bank's vectors on many prompts: is what they do systematic?"""
    from tl_steer.models.prompt_row import templated

    if resume and save is None:
        raise SettingError("--resume goes on with the sweep in a folder: name it with --save.")
    scorers: list[Any] = [
        ts.sweeps.regex(pattern, name=f"regex_{i}") for i, pattern in enumerate(regex or [])
    ]
    scorers += [ts.sweeps.refusal] if refusals else []
    chosen = picked(ts.load_bank(bank), vector)
    hooked = loaded(model, device, dtype)
    wrap = None if raw or not templated(hooked) else ts.chat
    found = ts.sweep(
        hooked,
        chosen,
        ts.sweeps.source_of(prompts, column=column, ids=ids, wrap=wrap),
        metrics=[*(metric or []), *scorers] or None,
        generate=generate,
        n_random=n_random,
        truncate=truncate,
        save=None if resume else save,
        resume=save if resume else None,
        budget_gib=budget,
        seed=seed,
        scale=scale,
        positions=positions_of(positions),
        progress=not as_json,
    )
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        wide = out.width >= _WIDE
        print_table(found.table(most=len(chosen), intervals=wide), narrow=not wide)
    if not found.finished:
        _tell_stopped(found.prompts, save)
        raise typer.Exit(INTERRUPTED)
    if save is not None and not as_json:
        tell(f"Cells in {save}; ts.load_sweep reads them.")


def _tell_stopped(prompts: int, save: Path | None) -> None:
    kept = (
        "nothing is saved without --save."
        if save is None
        else f"they are in {save}, and the same command with --resume goes on."
    )
    tell(f"Stopped after {prompts} prompts; {kept}", aside=True)
