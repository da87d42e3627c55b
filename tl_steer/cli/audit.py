"""tl-steer audit."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from tl_steer.cli.app import JsonOption, app, out
from tl_steer.errors import SettingError


@app.command()
def audit(
    log: Annotated[Path, typer.Argument(help="An audit log that watch() wrote.")],
    requests: Annotated[
        bool, typer.Option("--requests", help="All scored requests, not only alerts.")
    ] = False,
    since: Annotated[str, typer.Option(help="ISO date or time, the first included.")] = "",
    until: Annotated[str, typer.Option(help="ISO date or time, the first left out.")] = "",
    kind: Annotated[
        str | None, typer.Option(help="'known perturbation', 'unknown anomaly' or 'drift'.")
    ] = None,
    vector: Annotated[int | None, typer.Option("--vector", "-v", help="Only this vector.")] = None,
    label: Annotated[str | None, typer.Option(help="Only labels that contain this.")] = None,
    most_p: Annotated[float | None, typer.Option(help="Only p-values up to this.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Export to this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List, filter and export what a monitor saw; no model is needed."""
    from tl_steer.files.tables import draw, to_csv
    from tl_steer.monitoring.audit import audit_table, read_log

    rows = list(
        read_log(
            log,
            "requests" if requests else "alerts",
            since=_time(since, "--since"),
            until=_time(until, "--until"),
            kind=kind,
            vector=vector,
            label=label,
            most_p=most_p,
        )
    )
    if csv is not None:
        csv.write_text(to_csv(rows), encoding="utf-8")
        out.print(f"{len(rows)} rows written to {csv}", markup=False)
    elif as_json:
        print(json.dumps(rows))
    else:
        out.print(draw(audit_table(rows)))


def _time(text: str, option: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError as error:
        raise SettingError(
            f"{option} {text}: expected a date like 2026-01-31, or 2026-01-31T12:00."
        ) from error
