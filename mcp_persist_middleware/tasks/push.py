"""Tasks of 2026-07-28 that come to their client by themselves: `notifications/tasks` on a
`subscriptions/listen` that asks for them, on whichever worker that is."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware import asgi, rarely
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import JobFace, JobRecord
from mcp_persist_middleware.protocol import headers, hints, job_id, jsonrpc
from mcp_persist_middleware.streams import authorise
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.hints import serve as listens
from mcp_persist_middleware.streams.hints.serve import Outlet
from mcp_persist_middleware.supervision import Tasks, say
from mcp_persist_middleware.tasks import extension, jobs, state
from mcp_persist_middleware.tasks.advertised import has_own_tasks
from mcp_persist_middleware.tasks.changing import dumped
from mcp_persist_middleware.tasks.offer import without_session
from mcp_persist_middleware.tasks.state import JobState, JobStatus

logger = rarely.logger(__name__)

# So many tasks of one listen are looked after; each says something once in so long (seconds).
_MOST, _PAUSE = 100, 0.25
# How long one look waits for something new; a task that asks its client may go on elsewhere.
_LOOK, _LOOK_SOON, _TRY_AGAIN = 15.0, 1.0, 1.0
# Clients refuse an event of more than 1 MiB: what is larger is there for who asks.
_LARGEST = 512 * 1024


@dataclass(slots=True)
class TaskPush:
    """What one listen is told of tasks."""

    context: Context
    asked: Asked
    """The listen as the application may have it: of tasks it says nothing."""
    app: ASGIApp
    """Who answers it: the application, or, where it asks for nothing else, we."""
    found: Sequence[JobRecord]
    _running: Tasks = field(default_factory=lambda: Tasks("mcp-persist-push"), init=False)

    def acknowledge(self, promised: bytes) -> bytes:
        """What the application acknowledges, with the tasks of which the listen will be told."""
        message = json.loads(promised)
        told = [job_id.name(job.id) for job in self.found]
        message["params"]["notifications"]["taskIds"] = told
        return dumped(message)

    def start(self, outlet: Outlet) -> None:
        """Tell it from now on."""
        for job in self.found:
            self._running.begin(self._follow(job, outlet)).add_done_callback(_say)

    def stop(self) -> None:
        """Nobody listens any more."""
        self._running.cancel()

    async def _follow(self, job: JobRecord, outlet: Outlet) -> None:
        """First as it is now, then whenever it has changed, down to its end."""
        known: JobState | None = None
        while known is None or not known.status.is_over:
            try:
                now = await self._next(job, known)
            except StoreError as error:
                logger.warning("MPM-JOB-03: A task cannot be looked up: %s", error)
                await asyncio.sleep(_TRY_AGAIN)
                continue
            if now is None:
                return
            job, found = now
            if known is None or _shown(known) != _shown(found):
                detail = extension.detailed(job, found, self.context.log.now())
                if len(detail) <= _LARGEST:
                    outlet.tell_of(job_id.name(job.id), b"notifications/tasks", detail)
            known = found
            await asyncio.sleep(_PAUSE)

    async def _next(
        self, job: JobRecord, known: JobState | None
    ) -> tuple[JobRecord, JobState] | None:
        """A task as it is when it has changed, or after a while; None when it has expired."""
        log = self.context.log
        now = await log.jobs.find(job.id) if log.jobs is not None else None
        if now is None or now.expires_at <= log.now():
            return None
        if known is None or now.revision != job.revision:
            return now, await state.look(self.context, now)
        seconds = _LOOK if known.status is JobStatus.WORKING else _LOOK_SOON
        began = time.monotonic()
        found = await state.wait(self.context, now, known, seconds)
        if known.status is not JobStatus.WORKING:
            await asyncio.sleep(max(0.0, _LOOK_SOON - (time.monotonic() - began)))
        return now, found


def _say(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        say("A task that a listen is told of", error)


def _shown(found: JobState) -> tuple[object, ...]:
    return found.status, found.message, found.answer


async def serve(context: Context, app: ASGIApp, asked: Asked, client: Client, send: Send) -> None:
    """Serve a listen, whatever it asks for."""
    match await _push(context, app, asked, send):
        case TaskPush() as push:
            await listens.serve(context, push.app, push.asked, client, send, push)
        case True:
            await listens.serve(context, app, asked, client, send)


async def _push(context: Context, app: ASGIApp, asked: Asked, send: Send) -> TaskPush | bool:
    """For a listen that asks for tasks of ours. True where it asks for none; false where the client
    has been answered."""
    message = json.loads(asked.body.content)
    names = hints.task_ids(message)
    call, version = asked.request.call, asked.request.era.versions[0]
    if names is None or call is None or not context.settings.tasks or context.log.jobs is None:
        return True
    if await has_own_tasks(context.memory, app, asked.scope, version):
        return True
    if not jsonrpc.knows_tasks(message["params"]):
        refusal = extension.UNDECLARED.response(call.request_id)
        await asgi.answer_json(send, refusal, status=400)
        return False
    verdict = await authorise.ask(context, app, asked.scope)
    if verdict.refused:
        await verdict.pass_on(send)
        return False
    caller, face = without_session(verdict.caller), JobFace.EXTENSION
    asked_for = [await jobs.own(context, caller, name, face) for name in names[:_MOST]]
    found = [job for job in asked_for if job is not None]
    return _prepared(context, app, asked, message, found)


def _prepared(
    context: Context, app: ASGIApp, asked: Asked, message: Any, found: Sequence[JobRecord]
) -> TaskPush:
    del message["params"]["notifications"]["taskIds"]
    body = dumped(message)
    length = headers.replaced(asked.scope["headers"], b"content-length", str(len(body)))
    less = replace(asked, scope={**asked.scope, "headers": length}, body=Body.of(body))
    if not any(message["params"]["notifications"].values()):
        app = _Acknowledging(message["id"])
    return TaskPush(context, less, app, found)


class _Acknowledging:
    """Whoever asks for tasks alone need not ask the application, which may know no listens."""

    def __init__(self, request_id: Any) -> None:
        self._request_id = request_id

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        frame = hints.acknowledgement(self._request_id)
        await send({"type": "http.response.body", "body": frame, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
