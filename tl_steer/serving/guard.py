"""Who may talk to the server: whoever has the secret, and asks by a name of this machine.

A page of another site cannot read the secret, but it can send requests here, and by a name of its
own that it makes lead to this machine (DNS rebinding) it could read the answers. So the name that a
browser asked by (Host) is one of ours, and what changes something comes from our own page (Origin).
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

App = Callable[[Any, Any, Any], Awaitable[None]]
_LOCAL = ("127.0.0.1", "localhost")
_HOST = re.compile(r"([a-z0-9.-]+)(?::[0-9]{1,5})?", re.IGNORECASE)
# Where Colab's proxy puts a kernel's ports.
COLAB_HOSTS = (".googleusercontent.com", ".colab.dev")
_COLAB_FRAMES = "https://colab.research.google.com https://*.googleusercontent.com"
_HEADERS = {
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def guarded(app: App, secret: str, *, colab: bool) -> App:
    """An ASGI application behind a secret, which is the first part of its paths.

    Args:
        colab: whether names of Colab's proxy are names of this machine, and its frames may show
            the page.
    """
    frames = f"'self' {_COLAB_FRAMES}" if colab else "'none'"
    added = {**_HEADERS, "content-security-policy": f"frame-ancestors {frames}"}
    if not colab:
        added["x-frame-options"] = "DENY"
    raw = [(name.encode(), value.encode()) for name, value in added.items()]

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *raw]}
            await send(message)

        status = _refused(scope, secret, colab)
        if status:
            await _plain(sending, status)
            return
        path = "/" + scope["path"].split("/", 2)[2]
        await app({**scope, "path": path, "raw_path": path.encode()}, receive, sending)

    return guard


def _refused(scope: Mapping[str, Any], secret: str, colab: bool) -> int:
    """The status of a refusal; 0 of what may pass."""
    names = [name for name, _ in scope["headers"]]
    if names.count(b"host") != 1 or names.count(b"origin") > 1:
        return 400
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host, origin = headers[b"host"], headers.get(b"origin")
    if not _is_ours(host, colab):
        return 421
    parts = scope["path"].split("/", 2)
    told = parts[1].encode() if len(parts) == 3 else b""
    # In constant time: how much of a guess is right cannot be told from how long it takes.
    if not secrets.compare_digest(told, secret.encode()):
        return 404
    reads = scope["method"] in ("GET", "HEAD")
    if (origin is not None or not reads) and not _is_own(origin, host, colab):
        return 403
    return 0


def _is_ours(host: str, colab: bool) -> bool:
    name = _name(host)
    return name in _LOCAL or (colab and name.endswith(COLAB_HOSTS))


def _is_own(origin: str | None, host: str, colab: bool) -> bool:
    """Whether a page that this server gave asks: by the same name and port. Colab's proxy may ask
    by another name than the browser did."""
    if origin == f"http://{host}":
        return True
    if not colab or origin is None or not origin.startswith("https://"):
        return False
    return _name(origin.removeprefix("https://")).endswith(COLAB_HOSTS)


def _name(host: str) -> str:
    found = _HOST.fullmatch(host)
    return found.group(1).lower() if found else ""


async def _plain(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})
