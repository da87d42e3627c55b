"""tl-steer audit."""

import json
import math
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tl_steer.cli.app import JsonOption, new_file, out, print_table
from tl_steer.errors import SettingError


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
    verify: Annotated[
        bool, typer.Option("--verify", help="Check that no row was removed, changed or added.")
    ] = False,
    head: Annotated[
        str | None, typer.Option(help="With --verify: a head that an earlier --verify printed.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", callback=new_file, help="Export to this file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List, filter and export what a monitor saw; no model is needed."""
    from tl_steer.files.tables import to_csv
    from tl_steer.files.write import write_beside
    from tl_steer.monitoring.audit import audit_table, read_log

    if head is not None and not verify:
        raise SettingError("--head is compared by --verify; give both.")
    if verify:
        _verify(log, head, as_json)
        return
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
        write_beside(csv, to_csv(rows).encode())
        out.print(f"{len(rows)} rows written to {csv}", markup=False)
    elif as_json:
        print(json.dumps(_finite(rows), allow_nan=False))
    else:
        print_table(audit_table(rows))


def _verify(log: Path, head: str | None, as_json: bool) -> None:
    from tl_steer.monitoring.audit import verify_log

    found = verify_log(log, head=head)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    before = f", {found.before} of them before the chain began" if found.before else ""
    since = "" if found.since is None else f" Since the head that you kept, {found.since} came."
    told = (
        f"{found.rows} rows{before}: none was removed, changed or added by hand.{since}\n"
        f"Head: {found.head}\n"
        "Keep it elsewhere, for --head: rows cut off the end, or a log rewritten as a whole, are "
        "seen by that alone."
    )
    out.print(told, markup=False, highlight=False, soft_wrap=True)


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _time(text: str, option: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (ValueError, OverflowError, OSError) as error:
        raise SettingError(
            f"{option} {text}: expected a date like 2026-01-31, or 2026-01-31T12:00."
        ) from error
