"""A page that is being served: its address, and its end."""

import secrets
import socket
import threading
import time
import webbrowser
from types import TracebackType
from typing import Any

from tl_steer.errors import SettingError
from tl_steer.files.undo import Scope
from tl_steer.serving.app import Desk, app_of
from tl_steer.serving.colab import in_colab, show_port
from tl_steer.serving.guard import guarded

_HOST = "127.0.0.1"
_SECRET = 24  # bytes
_PATIENCE = 2  # seconds that answers under way have when the server stops


class Served:
    """A page that is being served; `with` stops it, and so does `stop`.

    Attributes:
        url: its address, with the secret that lets one in: whoever has it can run the model.
        port: where it listens, on 127.0.0.1.
    """

    def __init__(self, desk: Desk, at: socket.socket) -> None:
        import uvicorn

        self._worker, self._socket = desk.worker, at
        self.port: int = at.getsockname()[1]
        self._path = f"/{secrets.token_urlsafe(_SECRET)}/"
        self.url = f"http://{_HOST}:{self.port}{self._path}"
        guard = guarded(app_of(desk), self._path.strip("/"), colab=in_colab())
        self._ended = False
        self._server = uvicorn.Server(_config(uvicorn, guard))
        self._thread = threading.Thread(
            target=self._serve,
            name="tl-steer-server",
            daemon=True,
        )

    def _serve(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._ended = True

    def start(self) -> None:
        """Take the model and answer; `stop` undoes as much of it as was done."""
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
        # Not `join`: one that Ctrl-C ends takes the thread for ended too, and the socket would be
        # closed under a server that still runs. Not an `Event`: Ctrl-C in the middle of its `wait`
        # can leave its lock held, and the server would never end. In pieces, as some systems let no
        # signal into more.
        while not self._ended:
            time.sleep(0.2)

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


def listening(port: int) -> socket.socket:
    """A socket of this machine alone.

    Raises:
        SettingError: the port is taken, or is none.
    """
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
