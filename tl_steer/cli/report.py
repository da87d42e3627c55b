"""tl-steer report."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import tl_steer as ts
from tl_steer.cli.app import (
    BankArgument,
    DeviceOption,
    DtypeOption,
    JsonOption,
    ModelOption,
    PositionsOption,
    RawOption,
    ScaleOption,
    TokensOption,
    loaded,
    new_file,
    positions_of,
    tell,
)


def report(
    bank: BankArgument,
    save: Annotated[
        Path, typer.Option("--out", callback=new_file, help="Where the page goes.")
    ] = Path("report.html"),
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Steer and inspect on this; repeat for several."),
    ] = None,
    inspection: Annotated[
        list[Path] | None,
        typer.Option("--inspection", help="A saved inspection; repeat. Needs no model."),
    ] = None,
    sweep: Annotated[
        Path | None, typer.Option(help="The folder of a sweep of this bank; adds its statistics.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="An audit log; adds the alerts that this bank raised.")
    ] = None,
    model: ModelOption = "smollm2",
    device: DeviceOption = "",
    dtype: DtypeOption = "float32",
    scale: ScaleOption = 1.0,
    positions: PositionsOption = None,
    vector: Annotated[
        list[int] | None, typer.Option("--vector", "-v", help="Inspect only this one; repeat.")
    ] = None,
    most: Annotated[int, typer.Option(help="Inspect at most so many vectors.")] = 64,
    deep: Annotated[
        int,
        typer.Option(help="So many of them also at seven strengths and token by token."),
    ] = 8,
    tokens: TokensOption = 40,
    raw: RawOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page about a bank, to open offline or send to somebody.

    With --prompt the model runs under every vector, and under random ones beside them. Without, the
    page shows the bank and the saved inspections given, and no model is loaded.
    """
    from tl_steer.cli.measured import measure
    from tl_steer.models.tokens import chats
    from tl_steer.views.view import ending

    ending(save, (".html",))  # before the model runs
    found = ts.load_bank(bank)
    seen = [ts.inspection.load_inspection(path) for path in inspection or []]
    measured: dict[str, Any] = {}
    if prompt:
        rows, at = _listed(found, vector, most), positions_of(positions)
        hooked = loaded(model, device, dtype)
        of = measure(
            hooked,
            found,
            chats(hooked, prompt, raw=raw),
            rows=rows,
            deep=deep,
            tokens=tokens,
            scale=scale,
            positions=at,
        )
        seen += of.inspections
        measured = of.beside()
    page = ts.report(
        found,
        inspections=seen,
        **measured,
        sweep=None if sweep is None else ts.load_sweep(sweep),
        alerts=log,
    )
    page.save(save)
    if as_json:
        size = save.stat().st_size
        print(json.dumps({"report": str(save), "vectors": len(found), "bytes": size}))
    else:
        tell(f"Report: {save.resolve()} (open it in a browser)")


def _listed(bank: Any, vectors: list[int] | None, most: int) -> list[int]:
    """Rows to inspect: those asked for, or those of largest objective."""
    from tl_steer.banks.bank import largest

    if vectors:
        return [bank.row(vector) for vector in dict.fromkeys(vectors)]
    return largest(bank, max(most, 1))
