"""A child's messages on their way to a client: as an event stream, or as one JSON answer."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from starlette.types import Receive, Send

from mcp_persist_middleware.ops.proxy.stdio.requests import STATUS, InvalidError
from mcp_persist_middleware.ops.proxy.stdio.routes import Stream
from mcp_persist_middleware.protocol import headers, sse
from mcp_persist_middleware.supervision import end, scoped

_PING_SECONDS = 15.0
_NAME = "mcp-persist-stdio-answer"
Next = Callable[[], Awaitable[tuple[str, bool] | None]]


async def json_answer(send: Send, status: int, body: bytes, *more: headers.RawHeader) -> None:
    """One whole answer."""
    told = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


async def empty(send: Send, status: int, *more: headers.RawHeader) -> None:
    """A status that says it all."""
    told = [(b"content-length", b"0"), *more]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": b""})


async def invalid(send: Send, error: InvalidError, *more: headers.RawHeader) -> None:
    """Say what is wrong with a request."""
    await json_answer(send, error.status, error.body, *more)


async def modern_answer(stream: Stream, send: Send) -> None:
    """JSON when the answer is the first that comes, and comes soon; else an event stream."""
    first = await _within(stream.get, _PING_SECONDS)
    match first:
        case (str(text), True):
            code = json.loads(text).get("error", {}).get("code")
            await json_answer(send, STATUS.get(code, 200), text.encode("utf-8", "surrogatepass"))
        case _:
            await event_stream(stream.get, send, first)


async def event_stream(
    following: Next, send: Send, first: tuple[str, bool] | None = None, *more: headers.RawHeader
) -> None:
    """Events, and a sign of life when there is none for a while, until the last."""
    told = [*headers.stream_head([]), *more]
    await send({"type": "http.response.start", "status": 200, "headers": told})
    if first is None:
        # The head leaves at once, and not with the first event.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
    message = first or await _within(following, _PING_SECONDS)
    while True:
        match message:
            case ("", bool(is_last)):
                body = b""
            case (str(text), bool(is_last)):
                body = sse.event(text.encode("utf-8", "surrogatepass")) + sse.CRLF
            case _:
                body, is_last = sse.comment("ping"), False
        await send({"type": "http.response.body", "body": body, "more_body": not is_last})
        if is_last:
            return
        message = await _within(following, _PING_SECONDS)


async def _within(following: Next, seconds: float) -> tuple[str, bool] | None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await following()
    return None


async def unless_left(answering: Coroutine[Any, Any, None], receive: Receive) -> bool:
    """Answer as long as the client is there. Whether it has left before the end."""
    with scoped(answering, _NAME) as work, scoped(_left(receive), _NAME) as leaving:
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return False
            return True
        finally:
            await end(work)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
