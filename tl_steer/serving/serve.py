"""Serve a report with its model behind it, on this machine and to nobody else."""

import secrets
import socket
import threading
import webbrowser
from pathlib import Path
from types import TracebackType
from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.banks.provenance import check_fits
from tl_steer.errors import SettingError
from tl_steer.files.optional import imported
from tl_steer.files.signatures import typed
from tl_steer.files.undo import Scope
from tl_steer.models.caches import refuse_no_text
from tl_steer.models.model import HookedModel, model_name
from tl_steer.models.prompt_row import templated
from tl_steer.monitoring.panel import Panel
from tl_steer.monitoring.watch import watch
from tl_steer.perturbations.additive import Additive
from tl_steer.serving import asked
from tl_steer.serving.app import Desk, app_of
from tl_steer.serving.colab import in_colab, show_port
from tl_steer.serving.guard import guarded
from tl_steer.serving.notes import KeptNotes
from tl_steer.serving.tail import Tail
from tl_steer.serving.worker import Worker
from tl_steer.views.report import Report, report as report_of

_HOST = "127.0.0.1"
_SECRET = 24  # bytes
_PATIENCE = 2  # seconds that answers under way have when the server stops


class Served:
    """A page that is being served; `with` stops it, and so does `stop`.

    Attributes:
        url: its address, with the secret that lets one in: whoever has it can run the model.
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self, desk: Desk, listening: socket.socket) -> None:
        import uvicorn

        self._worker, self._socket = desk.worker, listening
        self.port: int = listening.getsockname()[1]
        self._path = f"/{secrets.token_urlsafe(_SECRET)}/"
        self.url = f"http://{_HOST}:{self.port}{self._path}"
        guard = guarded(app_of(desk), self._path.strip("/"), colab=in_colab())
        self._server = uvicorn.Server(_config(uvicorn, guard))
        self._thread = threading.Thread(
            target=self._server.run,
            kwargs={"sockets": [listening]},
            name="tl-steer-server",
            daemon=True,
        )

    def _start(self) -> None:
        self._worker.start()
        self._thread.start()

    def open(self) -> None:
        """Show the page: in Colab under the cell, elsewhere in the default browser."""
        if in_colab():
            show_port(self.port, self._path)
        else:
            webbrowser.open(self.url)

    def wait(self) -> None:
        """Until the page is stopped, or Ctrl-C is pressed."""
        while self._thread.is_alive():
            self._thread.join(0.2)  # in pieces, as some systems let no signal into a longer one

    def stop(self) -> None:
        """End what is under way, put the model back as it was, and free the port. May be called
        again."""
        with Scope() as scope:  # the last one first, and Ctrl-C waits until all are done
            scope.undo(self._socket.close)
            scope.undo(self._end)
            scope.undo(self._worker.close)

    def _end(self) -> None:
        self._server.should_exit = True
        if self._thread.ident is not None:  # it was started
            self._thread.join()

    def __enter__(self) -> "Served":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        # Notebooks keep what they show in files, so the secret is not shown by itself.
        state = "live" if self._thread.is_alive() else "stopped"
        return (
            f"Served: {state} at http://{_HOST}:{self.port}; .url is its whole address, .open() "
            "shows it, .stop() ends it"
        )


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
        SettingError: starlette and uvicorn are not installed (`pip install "tl_steer[serve]"`), or
            the port is taken.
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
    tail = Tail(None if log is None else Path(log), bank.digest())
    shown, told = report or report_of(bank), _live(model, bank, monitor, log, notes)

    def page() -> str:
        return shown.html(live={**told, **kept.asked({})})

    watching = None if monitor is None else _watching(model, monitor, tail, log, alpha)
    desk = Desk(model, bank, page, Worker(model, watching), tail, kept)
    served = Served(desk, _listening(port))
    try:
        served._start()
        if open:
            served.open()
    except BaseException:
        served.stop()
        raise
    return served


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


def _listening(port: int) -> socket.socket:
    if not 0 <= port < 1 << 16:
        raise SettingError(f"port={port}: expected 0 for any that is free, or up to 65535.")
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        raise SettingError(
            f"Port {port} of this machine cannot be listened to: {error.strerror}. Choose another, "
            "or 0 for any that is free."
        ) from error


def _config(uvicorn: Any, app: Any) -> Any:
    """No address is logged, as it holds the secret (below warnings, uvicorn logs them), and no
    header of a proxy is believed."""
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=64,
        timeout_graceful_shutdown=_PATIENCE,
    )
