"""tl-steer serve."""

from pathlib import Path
from typing import Annotated

import typer

import tl_steer as ts
from tl_steer.cli.app import BankArgument, DeviceOption, DtypeOption, ModelOption, loaded, tell


def serve(
    bank: BankArgument,
    monitor: Annotated[
        Path | None, typer.Option(help="A monitor's file; it watches what the page asks for.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="An audit log, shown as it grows; --monitor writes to it.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="How often the monitor may raise an alert on a clean request.")
    ] = 0.01,
    inspection: Annotated[
        list[Path] | None, typer.Option("--inspection", help="A saved inspection; repeat.")
    ] = None,
    model: ModelOption = "smollm2",
    device: DeviceOption = "",
    dtype: DtypeOption = "float32",
    port: Annotated[int, typer.Option(help="Where to listen; 0 is any that is free.")] = 0,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a bank's report with the model behind it, until Ctrl-C.

    Type any prompt, mix vectors, change their strengths, stop, inspect; this machine alone is
    served. Notes taken in the page are kept beside the bank, in BANK.notes.json.
    """
    found = ts.load_bank(bank)
    seen = [ts.inspection.load_inspection(path) for path in inspection or []]
    watching = None if monitor is None else ts.Monitor.load(monitor)
    page = ts.report(found, inspections=seen, alerts=log if log and log.is_file() else None)
    hooked = loaded(model, device, dtype)
    with ts.serve(
        hooked,
        found,
        report=page,
        monitor=watching,
        log=log,
        alpha=alpha,
        notes=bank.with_name(f"{bank.name}.notes.json"),
        port=port,
    ) as served:
        tell(f"Live at {served.url}\nWhoever has this address can use the model. Ctrl-C stops it.")
        if show:
            served.open()
        try:
            served.wait()
        except KeyboardInterrupt:
            tell("Stopped.")
