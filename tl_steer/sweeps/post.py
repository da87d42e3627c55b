"""One HTTP request that ends in time: no redirects, no proxies, and an answer of bounded size."""

import functools
import logging
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import anyio
import httpx
from anyio.from_thread import start_blocking_portal

_MOST = 2**20
_BUSY = (408, 409, 429, 500, 502, 503, 504)


_thread = threading.local()


def _others(record: logging.LogRecord) -> bool:
    """httpx logs status lines and headers of answers, in which a server may repeat the key. Nothing
    is logged of the requests of this file; all others are as before."""
    return not getattr(_thread, "asks", False)


for _name in ("httpx", "httpcore.connection", "httpcore.http11"):
    logging.getLogger(_name).addFilter(_others)


@dataclass(frozen=True)
class Answer:
    """What came of a request.

    Attributes:
        status: HTTP's, or 0 where no whole answer came.
        body: as it came; what is no answer to use may be cut.
        wrong: what happened instead of an answer.
        wait: seconds that the server asks to wait before the next request.
        again: whether the same request may do better later.
    """

    status: int = 0
    body: bytes = b""
    wrong: str = ""
    wait: float = 0.0
    again: bool = False


def post(url: str, body: bytes, headers: Mapping[str, str], *, seconds: float) -> Answer:
    """Send `body`, and nothing to anybody but `url`'s own server.

    The time is that of the whole exchange: a server that sends a byte now and then gets no more of
    it. httpx bounds single reads only, so its asynchronous client runs in a thread, and is left.
    """
    with start_blocking_portal() as portal:
        return portal.call(functools.partial(_post, url, body, dict(headers), seconds))


async def _post(url: str, body: bytes, headers: dict[str, str], seconds: float) -> Answer:
    _thread.asks = True  # the thread is this request's own
    # No encoding: a small answer must not unpack to a large one.
    headers |= {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    try:
        with anyio.fail_after(seconds):
            async with (
                httpx.AsyncClient(
                    follow_redirects=False, trust_env=False, timeout=None, verify=_trusted()
                ) as client,
                client.stream("POST", url, content=body, headers=headers) as reply,
            ):
                return await _read(reply)
    except TimeoutError:
        return Answer(wrong=f"no whole answer within {seconds:.3g} s")
    except httpx.TransportError as error:
        told = str(error) or "the connection was closed"
        return Answer(wrong=f"{told} ({type(error).__name__})", again=True)
    except (OSError, ValueError) as error:  # names that no resolver takes, for one
        return Answer(wrong=str(error))


async def _read(reply: httpx.Response) -> Answer:
    found = bytearray()
    async for piece in reply.aiter_raw():
        found += piece
        if len(found) > _MOST:
            if reply.is_success:
                return Answer(wrong=f"an answer of more than {_MOST >> 10} KiB")
            break
    busy = reply.status_code in _BUSY
    return Answer(
        reply.status_code,
        bytes(found),
        wait=_seconds(reply.headers.get("retry-after", "")) if busy else 0.0,
        again=busy,
    )


def _seconds(text: str) -> float:
    """What Retry-After asks for: seconds, or a date."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return 0.0


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The system's authorities; made once, as that takes longer than a request."""
    return ssl.create_default_context()
