"""What answers a `tasks/result` of 2025-11-25: all that its call says, and its answer at last."""

import asyncio
import contextlib
import json
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.model import Event, EventKind, JobFace, JobRecord, RequestId
from mcp_persist_middleware.protocol import job_id, jsonrpc, sse
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.tasks import core, jobs, state
from mcp_persist_middleware.tasks.changing import dumped
from mcp_persist_middleware.tasks.state import JobState

_HEAD = [(b"content-type", b"text/event-stream")]
# How much of a stream's end is looked at for what its client was asked.
_EVENTS, _BYTES = 32, 256 * 1024
_TRY_AGAIN = 0.5


class TaskResult:
    """An application whose one answer is what a task's call says: it is run, logged, delivered and
    resumed as any other. Progress of before is over; what the call asked its client, and has no
    answer to, is asked."""

    def __init__(self, context: Context, job: JobRecord, request_id: RequestId) -> None:
        self._context = context
        self._job = job
        self._request_id = request_id
        self._is_answered = False

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
        context, job = self._context, self._job
        live = context.writer.live.get(job.stream)
        cursor = Cursor(context.reads, job.stream, 0, live, resumed=False)
        try:
            old = live.last if live is not None else (await context.log.written(job.stream)).last
            while not self._is_answered:
                try:
                    page = await cursor.next()
                except StoreError:
                    await asyncio.sleep(_TRY_AGAIN)
                    continue
                for event in page.events:
                    await self._pass_on(event, old, send)
                if page.ended:
                    break
        finally:
            cursor.close()
        if not self._is_answered:
            await self._tell(await self._end(), send)
        await send({"type": "http.response.body", "body": b""})

    async def _pass_on(self, event: Event, old: int, send: Send) -> None:
        if event.kind is EventKind.NOISE and event.sequence <= old:
            return
        with contextlib.suppress(ValueError, RecursionError):
            message = json.loads(sse.data_of(event.frame))
            if event.kind is EventKind.REQUEST and has_replied(self._context, self._job, message):
                return
            await self._tell(message, send)
            self._is_answered = event.kind is EventKind.RESPONSE

    async def _tell(self, message: dict[str, Any], send: Send) -> None:
        said = core.related(message, job_id.name(self._job.id), self._request_id)
        frame = sse.event(dumped(said)) + sse.CRLF
        await send({"type": "http.response.body", "body": frame, "more_body": True})

    async def _end(self) -> dict[str, Any]:
        """Of a call whose answer is not there: what is said of it."""
        found = await state.look(self._context, self._job)
        return {
            "jsonrpc": "2.0",
            "id": self._request_id,
            "error": json.loads(found.answer or b"{}"),
        }


async def again(caller: Caller, asked: Asked, request_id: RequestId) -> ASGIApp:
    """What answers a question whose worker is gone, about a task of the caller's. The worker may
    have left it to an application that has tasks itself: whose task it is nobody looked at then.

    Raises:
        StoreError: the store does not answer.
    """
    task, context = jsonrpc.params(asked.body.content).get("taskId"), caller.context
    job = await jobs.own(context, caller, task, JobFace.CORE)
    if job is not None:
        return TaskResult(context, job, request_id)

    async def unknown(_: Scope, __: Receive, send: Send) -> None:
        await asgi.answer_json(send, core.refusal(request_id, core.UNKNOWN))

    return unknown


def has_replied(context: Context, job: JobRecord, message: dict[str, Any]) -> bool:
    """Whether the client of a task has answered a request of its call."""
    owner = job.owner
    return (owner.place, owner.session, jsonrpc.key(message.get("id"))) in context.replied


async def waits_for_client(context: Context, job: JobRecord, found: JobState) -> bool:
    """Whether the call of a task that runs waits for an answer of its client's.

    Raises:
        StoreError: the store does not answer.
    """
    after = max(0, found.last - _EVENTS)
    for event in await context.log.read(job.stream, after, 2 * _EVENTS, _BYTES):
        if event.kind is EventKind.REQUEST:
            with contextlib.suppress(ValueError, RecursionError):
                if not has_replied(context, job, json.loads(sse.data_of(event.frame))):
                    return True
    return False
