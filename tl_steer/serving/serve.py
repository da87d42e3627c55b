"""Serve a report with its model behind it, on this machine and to nobody else."""

from pathlib import Path
from typing import Any

import torch

from tl_steer.banks.bank import Bank
from tl_steer.banks.provenance import check_fits
from tl_steer.errors import SettingError
from tl_steer.files.optional import imported
from tl_steer.files.signatures import typed
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.model import HookedModel, model_name
from tl_steer.models.prompt_row import templated
from tl_steer.monitoring.audit_file import place
from tl_steer.monitoring.panel import Panel
from tl_steer.monitoring.watch import watch
from tl_steer.perturbations.additive import Additive
from tl_steer.serving import asked
from tl_steer.serving.app import Desk
from tl_steer.serving.notes import KeptNotes
from tl_steer.serving.served import Served, listening
from tl_steer.serving.tail import Tail
from tl_steer.serving.worker import Worker
from tl_steer.views.report import Report, report as report_of


@typed
def serve(
    model: HookedModel,
    bank: Bank,
    *,
    report: Report | None = None,
    monitor: Panel | None = None,
    log: str | Path | None = None,
    alpha: float | int = 0.01,
    notes: str | Path | None = None,
    port: int = 0,
    open: bool = False,
) -> Served:
    """Serve the bank's report with the model behind it: any prompt, at any strength, under one
    vector or several, beside a random vector and the model as it is.

        with ts.serve(model, bank) as served:
            served.open()
            served.wait()

    The page is served by a thread of its own to this machine alone (127.0.0.1), at an address with
    a secret in it. Another thread owns the model until `stop`: leave the model alone meanwhile, and
    torch's random state too, which sampling sets and puts back.

    Args:
        report: the page, as `report` makes it of this bank with whatever is known of it; a bare
            one unless given.
        monitor: watches what the page makes the model say, and raises alerts beside it.
        log: an audit log. With a monitor it is written to; the page shows alerts of this bank as
            they come, also those that other processes write.
        alpha: how often the monitor may raise an alert on a clean request.
        notes: a JSON file for notes taken in the page; without one they are not kept.
        port: where to listen; 0 is any that is free.
        open: whether to show the page at once (`Served.open`).

    Raises:
        ForeignModelError: the bank or the monitor was made for another model.
        ModelError: the model cannot generate.
        SettingError: starlette and uvicorn are not installed (`pip install "tl_steer[serve]"`), the
            port is taken, or the report or the monitor is of another bank.
        AuditError: the log cannot be written.
        BankFileError: the notes cannot be read.

    Wrong to use as a service for others: there is one secret, one worker, and no encryption. For a
    model on another machine, forward the port: `ssh -L 8765:127.0.0.1:8765 machine`.
    """
    for package in ("starlette", "uvicorn"):
        imported(package, install='"tl_steer[serve]"')
    check_fits(model, bank.provenance)
    refuse_no_text(model)
    kept = KeptNotes(None if notes is None else Path(notes), bank.numbers)
    shown = report or report_of(bank)
    _refuse_other_bank(bank, shown, monitor)
    banks = {each.digest() for each in (bank, *([] if monitor is None else [monitor.bank]))}
    tail = Tail(None if log is None else place(log), banks)
    told = _live(model, bank, monitor, log, notes)

    def page() -> str:
        return shown.html(live={**told, **kept.asked({})})

    watching = None if monitor is None else _watching(model, monitor, tail, log, alpha)
    desk = Desk(model, bank, page, Worker(model, watching), tail, kept)
    served = Served(desk, listening(port))
    try:
        served.start()
        if open:
            served.open()
    except BaseException:
        served.stop()
        raise
    return served


def _refuse_other_bank(bank: Bank, report: Report, monitor: Panel | None) -> None:
    if report.marks["bank"] != bank.digest():
        raise SettingError(
            f"The report is about bank {report.marks['bank']}, and this is {bank.digest()}: make "
            "one of this bank, ts.report(bank, ...)."
        )
    if monitor is None:
        return
    own, known = monitor.bank, dict(zip(bank.numbers, bank.vectors, strict=True))
    for number, vector in zip(own.numbers, own.vectors, strict=True):
        if number not in known or not torch.allclose(known[number], vector, rtol=1e-3):
            raise SettingError(
                f"The monitor looks for another bank's vectors: its vector {number} is not this "
                "bank's. Serve the bank that it was fitted with: serve(model, monitor.bank, ...)."
            )


def _watching(
    model: HookedModel, monitor: Panel, tail: Tail, log: str | Path | None, alpha: float | int
) -> Any:
    def opened(hear: Any) -> Any:
        def both(alert: Any) -> None:
            tail.raised(alert)
            hear(alert)

        # Steered answers are no traffic, so nothing is said of how that drifts.
        return watch(model, monitor, alpha=alpha, log=log, drift=None, on_alert=both, chunk=1)

    return opened


def _live(
    model: HookedModel,
    bank: Bank,
    monitor: Panel | None,
    log: str | Path | None,
    notes: str | Path | None,
) -> dict[str, Any]:
    """What the page has to know of the server."""
    return {
        "model": model_name(model),
        "chat": bool(templated(model)),
        "mixes": bank.kind == Additive.kind,
        "vectors": [[n, label] for n, label in zip(bank.numbers, bank.labels, strict=True)],
        "monitor": monitor is not None,
        "alerts": monitor is not None or log is not None,
        "keeps": notes is not None,
        "most": {
            "prompt": asked.MOST_PROMPT,
            "parts": asked.MOST_PARTS,
            "tokens": asked.MOST_TOKENS,
        },
    }
