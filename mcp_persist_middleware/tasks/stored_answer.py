"""The answer of a job, for a request that has asked for it: now, or as soon as it is there."""

import asyncio
import json
import time
from typing import Any

from starlette.types import Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.model import JobRecord, RequestId
from mcp_persist_middleware.protocol import headers, jsonrpc, sse
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.tasks import extension, state
from mcp_persist_middleware.tasks.state import JobState, JobStatus

# A shutdown is heard of within so long (seconds).
_SLICE = 1.0
# What comes within this time leaves as JSON; for what comes later the connection is kept alive.
_SOON = 0.5


async def over(context: Context, job: JobRecord, seconds: float) -> JobState:
    """The state of a job when it is over, or after so many seconds, or when this worker stops.

    Raises:
        StoreError: the store does not answer.
    """
    until = time.monotonic() + seconds
    found = await state.look(context, job)
    while not (found.status.is_over or context.draining):
        left = until - time.monotonic()
        if left <= 0:
            break
        found = await state.wait(context, job, found, min(left, _SLICE))
    return found


def message(request_id: RequestId, found: JobState) -> bytes:
    """The response to a request with this id, of a job that is over."""
    if found.status is JobStatus.COMPLETED:
        return extension.response(request_id, found.answer)
    if not found.answer:
        return jsonrpc.error(request_id, found.message, {}, jsonrpc.INTERRUPTED)
    head = json.dumps({"jsonrpc": "2.0", "id": request_id}, separators=(",", ":")).encode()
    return head[:-1] + b',"error":' + found.answer + b"}"


async def deliver(
    known: asyncio.Task[bytes],
    client: Client,
    send: Send,
    head: headers.RawHeaders,
    ping_seconds: float,
) -> None:
    """Give a message to a client that may have to wait for it. One that leaves has changed nothing.

    Args:
        head: what the answer has for headers besides.

    Raises:
        StoreError: the store does not answer, and nothing was sent.
    """
    either: set[asyncio.Task[Any]] = {known, client.watch()}
    await asyncio.wait(either, timeout=_SOON, return_when=asyncio.FIRST_COMPLETED)
    if known.done():
        await asgi.answer_json(send, known.result(), *head)
        return
    if any(each.done() for each in either):
        return
    raw = headers.stream_head(head)
    await send({"type": "http.response.start", "status": 200, "headers": raw})
    while not any(each.done() for each in either):
        await _say(send, sse.comment("the call goes on"))
        timeout = ping_seconds or None
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    # Without the answer its client asks again.
    answered = known.done() and known.exception() is None
    last = sse.event(known.result()) + sse.CRLF if answered else b""
    await send({"type": "http.response.body", "body": last})


async def _say(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
