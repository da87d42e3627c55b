"""The server's few addresses. What is asked comes as JSON in a POST; what takes long is answered
line by line, a JSON value each, as it comes.

    GET  /             the page
    POST /api/steer    a prompt under a mixture       -> {"job"}, {"texts"}.., {"done"}
    POST /api/inspect  the same, inspected            -> {"job"}, {"views"}, {"done"}
    POST /api/stop     {"job": 3}                     -> {"stopped": true}
    POST /api/alerts   {"version": 0}                 -> {"version": 2, "data": ...}
    POST /api/notes    {} or {"notes": {...}}         -> {"notes": {...}}
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from tl_steer.banks.bank import Bank
from tl_steer.errors import SteerError
from tl_steer.files import jsons
from tl_steer.models.model import HookedModel
from tl_steer.serving.asked import Asked, asked_of, number_of
from tl_steer.serving.jobs import inspecting, steering
from tl_steer.serving.notes import KeptNotes
from tl_steer.serving.tail import Tail
from tl_steer.serving.worker import Busy, Job, Worker
from tl_steer.views.page import embedded

# Notes on some thousand vectors; a prompt takes far less.
MOST_BYTES = 2_000_000
Work = Callable[[HookedModel, Bank, Asked], Callable[[Job], None]]


@dataclass(frozen=True, eq=False)
class Desk:
    """What the addresses have to work with."""

    model: HookedModel
    bank: Bank
    page: Callable[[], str]
    worker: Worker
    tail: Tail
    notes: KeptNotes


class Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def app_of(desk: Desk) -> Any:
    """The ASGI application."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    def page(_: Any) -> Any:
        return HTMLResponse(desk.page())

    async def steer(asked: Any) -> Any:
        return await _streamed(desk, steering, asked_of(asked))

    async def inspect(asked: Any) -> Any:
        return await _streamed(desk, inspecting, asked_of(asked))

    api: dict[str, Callable[[Any], Any]] = {
        "steer": steer,
        "inspect": inspect,
        "stop": lambda asked: {"stopped": desk.worker.stop(number_of(asked, "job"))},
        "alerts": lambda asked: desk.tail.newer(number_of(asked, "version")),
        "notes": desk.notes.asked,
    }
    posts = [Route(f"/api/{name}", _posted(work), methods=["POST"]) for name, work in api.items()]
    return Starlette(routes=[Route("/", page, methods=["GET"]), *posts])


def _posted(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """An address whose body is JSON, and whose errors are sentences."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response

    async def answer(request: Any) -> Any:
        try:
            asked = await _json_of(request)
            if iscoroutinefunction(work):
                return await work(asked)
            found = await run_in_threadpool(work, asked)  # it may read and write files
            return Response(embedded(found), media_type="application/json")
        except Refused as error:
            status, why = error.status, str(error)
        except SteerError as error:
            status, why = 400, str(error)
        except ValueError as error:
            status, why = 400, f"What was asked for cannot be read: {error}."
        except Busy:
            status, why = 503, "The model is busy, and as many wait as may; try again later."
        return Response(embedded({"error": why}), status, media_type="application/json")

    return answer


async def _json_of(request: Any) -> Any:
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise Refused(415, "Expected application/json.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise Refused(413, f"More than {MOST_BYTES} bytes were sent.")
    return jsons.from_text(bytes(body).decode("utf-8"))


async def _streamed(desk: Desk, work: Work, asked: Asked) -> Any:
    """A job's events, a line each; the job is stopped when nobody reads on."""
    from starlette.responses import StreamingResponse

    loop = asyncio.get_running_loop()
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    def tell(event: dict[str, Any] | None) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(events.put_nowait, event)

    job = desk.worker.submit(work(desk.model, desk.bank, asked), tell)
    stream = StreamingResponse(_lines(events), media_type="application/x-ndjson")

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        try:
            await stream(scope, receive, send)
        finally:
            job.stopped.set()

    return answer


async def _lines(events: Any) -> AsyncIterator[str]:
    while (event := await events.get()) is not None:
        yield embedded(event) + "\n"
