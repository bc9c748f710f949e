"""Answers what clients of 2025-11-25 ask about tasks, and runs the calls that are to be some."""

import dataclasses
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

from starlette.types import ASGIApp, Scope, Send

from mcp_persist_middleware import asgi, rarely, telemetry
from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import nowhere
from mcp_persist_middleware.errors import PersistError, StoreError
from mcp_persist_middleware.log.within import within
from mcp_persist_middleware.model import EventKind, JobFace, JobRecord
from mcp_persist_middleware.protocol import headers, job_id, jsonrpc, sse
from mcp_persist_middleware.streams import identity
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.streams.state import Opened
from mcp_persist_middleware.supervision import say
from mcp_persist_middleware.tasks import core, core_result, jobs, shown, state
from mcp_persist_middleware.tasks.changing import Changing
from mcp_persist_middleware.tasks.core_result import TaskResult, waits_for_client
from mcp_persist_middleware.tasks.offer import is_wanted
from mcp_persist_middleware.tasks.state import JobState, JobStatus

logger = rarely.logger(__name__)

_PAGE = 20
_ASK_AGAIN = 30.0
_LOOKS = frozenset({"tasks/get", "tasks/list"})
_VERSION = "2025-11-25"
_USER = ("user", "auth")
_OVER = "Cannot cancel a task that has ended: its status is {}"


@dataclass(slots=True)
class CoreTaskService:
    """For one request of 2025-11-25 that has to do with tasks.

    Args:
        app: the application as requests of this revision may call it.
        bare: the same without our sessions.
    """

    context: Context
    app: ASGIApp
    bare: ASGIApp
    asked: Asked
    call: jsonrpc.Call
    begun: tuple[Exchange, Opened] | None = field(default=None, init=False)
    """A call that could not become a task, and runs."""

    @classmethod
    def of(
        cls, context: Context, app: ASGIApp, bare: ASGIApp, asked: Asked
    ) -> "CoreTaskService | None":
        """None for every other request."""
        call = asked.request.call
        if call is None or asked.request.era.tasks is not JobFace.CORE:
            return None
        if not context.settings.tasks or context.log.jobs is None or len(call.request_ids) != 1:
            return None
        is_task = call.method == "tools/call" and b'"task"' in asked.body.content
        concerns = call.method in core.METHODS or call.method in ("initialize", "tools/list")
        return cls(context, app, bare, asked, call) if is_task or concerns else None

    # An answer of the application's that says more.

    offer: ClassVar[None] = None
    """A call is a task from its beginning, or never."""

    @property
    def application(self) -> ASGIApp:
        """The application that answers, where this does not."""
        if self.call.method == "initialize":
            return Changing(self.app, self._greet)
        return self.app

    def _greet(self, greeting: Any) -> bool:
        has_tasks = core.has_tasks(greeting)
        if has_tasks is None:
            return False
        self.context.memory.own_core_tasks[place_of(self.asked.scope)] = has_tasks
        if not has_tasks:
            core.advertise(greeting)
        return not has_tasks

    def _list(self, listing: Any) -> bool:
        asked = self.context.settings.tasks_for
        return core.offer(listing, None if asked is None or callable(asked) else frozenset(asked))

    # A request that is ours.

    async def answer(self, send: Send) -> bool:
        """Answer it; false where the application, or what `application` and `begun` say by now, is
        to do so."""
        if self.call.method == "initialize" or await self._has_own_tasks():
            return False
        if self.call.method == "tools/list":
            self.app = Changing(self.app, self._list)
            return False
        body, given = self.asked.body.content, None
        if self.call.method == "tools/call":
            body, given = core.untasked(body)
            if given is None:
                return False
        caller = await self._let_in(send)
        if caller is None:
            return True
        patience = self.context.settings.store_timeout if self.call.method in _LOOKS else None
        try:
            async with within(patience, self.context.log.name):
                answer = await (
                    self._answer(caller) if given is None else self._run(caller, body, given)
                )
        except StoreError as error:
            logger.warning("MPM-JOB-03: A task cannot be looked up: %s", error)
            await asgi.unavailable(send, "The event store is unavailable; ask again")
            return True
        if answer is not None:
            await asgi.answer_json(send, answer)
        return answer is not None

    async def _let_in(self, send: Send) -> Caller | None:
        """Whoever asks, if the application lets him in and has his session. It is asked as for a
        resume; a session that is not here comes back for it."""
        scope = self.asked.scope
        asked, answer = await asgi.probe_caller(self.app, dict(scope), revives=True)
        if not 200 <= answer.status < 300:
            await answer.pass_on(send)
            return None
        # What is answered in its place is the same caller's.
        scope.update({name: asked[name] for name in _USER if name in asked})
        return Caller.of(self.context, self.app, scope, asked)

    async def _has_own_tasks(self) -> bool:
        """Whether the application has tasks itself. It says so in answer to an `initialize`: a
        worker that has not heard one asks, once; for a caller who is not answered not again soon.
        """
        memory, scope = self.context.memory, self.asked.scope
        known = memory.own_core_tasks.get(place_of(scope))
        if known is not None:
            return known
        caller = place_of(scope), identity.credential(self.context, scope)
        if memory.unanswered.get(caller, 0.0) > time.monotonic():
            return True
        found = None
        try:
            found = await _greeting(self.bare, scope)
        except PersistError:
            raise
        except Exception as error:  # noqa: BLE001
            say("The question whether the application has tasks", error)
        if found is None:
            memory.unanswered[caller] = time.monotonic() + _ASK_AGAIN
            return True
        known = memory.own_core_tasks[caller[0]] = core.has_tasks(found) is not False
        return known

    async def _run(self, caller: Caller, body: bytes, given: dict[str, Any]) -> bytes | None:
        """Run a call as a task: its client hears of that before anything has come of it."""
        context, request_id = self.context, self.call.request_id
        if not is_wanted(context, self.call, body):
            text = f"Tool {self.call.name} cannot be run as a task"
            return core.refusal(request_id, text, core.METHOD_NOT_FOUND)
        scope = self.asked.scope
        length = str(len(body))
        scope["headers"] = headers.replaced(scope["headers"], b"content-length", length)
        running = Exchange(context, self.app, scope, self.asked.request, nowhere)
        running.start(Body.of(body))
        running.open([], early=True)
        running.opening.announce()
        opened = await running.opening.opened
        request = jobs.JobRequest(face=JobFace.CORE, caller=caller, ttl=self._ttl(given))
        job = await jobs.begin(context, running, request)
        if opened is not None and job is None:
            self.begun = running, opened
        elif opened is not None:
            # Nobody reads it here.
            opened.stream.detach()
        return None if job is None else core.created(job, request_id)

    def _ttl(self, given: dict[str, Any]) -> float:
        """As its client wishes (milliseconds), as we may say otherwise: one that asks for a minute
        by habit is not to lose a call that takes two."""
        settings, wished = self.context.settings, given.get("ttl")
        is_number = isinstance(wished, int | float) and not isinstance(wished, bool)
        seconds = wished / 1000 if is_number and wished else settings.tasks_ttl
        return min(settings.tasks_ttl, max(seconds, settings.detach_seconds))

    # A question about a task.

    async def _answer(self, caller: Caller) -> bytes | None:
        params = jsonrpc.params(self.asked.body.content)
        request_id = self.call.request_id
        if self.call.method == "tasks/list":
            return await self._listing(caller, params.get("cursor"))
        job = await jobs.own(self.context, caller, params.get("taskId"), JobFace.CORE)
        if job is None:
            return core.refusal(request_id, core.UNKNOWN)
        telemetry.jobs.add(1, {"face": str(job.face), "event": "polled"})
        match self.call.method:
            case "tasks/get":
                found = await self._look(job)
                return core.response(request_id, shown.task(job, found, self.context.log.now()))
            case "tasks/cancel":
                return await self._cancel(job)
            case _:
                self.app = TaskResult(self.context, job, request_id)
                return None

    async def again(self, caller: Caller) -> ASGIApp | None:
        """What answers a `tasks/result` whose worker is gone; None where the application does."""
        if self.call.method != "tasks/result" or await self._has_own_tasks():
            return None
        return await core_result.again(caller, self.asked, self.call.request_id)

    async def _look(self, job: JobRecord) -> JobState:
        found = await state.look(self.context, job)
        if found.status is JobStatus.WORKING and await waits_for_client(self.context, job, found):
            return dataclasses.replace(found, status=JobStatus.INPUT_REQUIRED)
        return found

    async def _cancel(self, job: JobRecord) -> bytes:
        request_id = self.call.request_id
        found = await state.look(self.context, job)
        if found.status.is_over:
            return core.refusal(request_id, _OVER.format(found.status))
        await jobs.cancel(self.context, job)
        telemetry.jobs.add(1, {"face": str(job.face), "event": "cancelled"})
        found = await state.look(self.context, job)
        return core.response(request_id, shown.task(job, found, self.context.log.now()))

    async def _listing(self, caller: Caller, cursor: object) -> bytes:
        """The caller's own tasks, the newest first. Whoever has no name and no session has none
        that are known to be his."""
        request_id, log, before = self.call.request_id, self.context.log, b""
        if cursor is not None:
            found = job_id.parse(cursor) if isinstance(cursor, str) else None
            if found is None:
                return core.refusal(request_id, "Invalid cursor")
            before = found
        told: dict[str, Any] = {"tasks": []}
        if caller.owner.is_known and log.jobs is not None:
            account = asgi.account_of(caller.scope, caller.owner.principal)
            page = await log.jobs.list(account, before, _PAGE)
            for job in page:
                if await self._is_listed(caller, job):
                    told["tasks"].append(shown.task(job, await self._look(job), log.now()))
            if len(page) == _PAGE:
                told["nextCursor"] = job_id.name(page[-1].id)
        return core.response(request_id, told)

    async def _is_listed(self, caller: Caller, job: JobRecord) -> bool:
        is_kept = job.face is JobFace.CORE and job.expires_at > self.context.log.now()
        return is_kept and await caller.owns(job.owner)


def note_reply(context: Context, asked: Asked) -> None:
    """A client has answered what it was asked, as far as that may be what a task waits for."""
    if context.outliving and asked.request.session and asked.body.complete:
        kind, answered = jsonrpc.scan(asked.body.content)
        if kind is EventKind.RESPONSE:
            for key in answered:
                context.replied[(place_of(asked.scope), asked.request.session, key)] = None


async def _greeting(bare: ASGIApp, scope: Scope) -> Any:
    """What the application says of itself to this caller; None where it does not. A session that it
    begins for that ends at once."""
    left_out = headers.SESSION_ID, headers.PROTOCOL_VERSION
    asked, request_id = asgi.question(scope, "POST", without=left_out), secrets.token_hex(8)
    client = {"name": "mcp-persist-middleware", "version": telemetry.VERSION}
    params = {"protocolVersion": _VERSION, "capabilities": {}, "clientInfo": client}
    message = {"jsonrpc": "2.0", "id": request_id, "method": "initialize", "params": params}
    answer = await asgi.ask(
        bare, asked, json.dumps(message).encode(), until=lambda said: request_id.encode() in said
    )
    session = headers.get(answer.headers, headers.SESSION_ID)
    if session is not None and 200 <= answer.status < 300:
        ended = asgi.question(scope, "DELETE", without=left_out)
        ended["headers"].append((headers.SESSION_ID, session.encode("latin-1")))
        ended["headers"].append((headers.PROTOCOL_VERSION, _VERSION.encode()))
        await asgi.ask(bare, ended, b"")
    said = answer.body
    if headers.is_event_stream(answer.status, answer.headers):
        frames = sse.FrameParser(len(said) + 4).feed(said)
        said = frames[-1].data if frames else b""
    try:
        return json.loads(said) if 200 <= answer.status < 300 else None
    except (ValueError, RecursionError):
        return None
