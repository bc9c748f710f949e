"""Answers what clients of 2026-07-28 ask about their tasks, and lets their calls become tasks."""

import asyncio
import contextlib
import dataclasses
import json
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.types import ASGIApp, Send

from mcp_persist_middleware import asgi, rarely, telemetry
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import nowhere
from mcp_persist_middleware.errors import SessionElsewhereError, StoreError
from mcp_persist_middleware.log.within import within
from mcp_persist_middleware.model import JobFace, JobRecord
from mcp_persist_middleware.protocol import event_id, headers, job_id, jsonrpc
from mcp_persist_middleware.streams import authorise, rerun
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.streams.stored_request import StoredRequest
from mcp_persist_middleware.tasks import creation, extension, jobs, state
from mcp_persist_middleware.tasks.advertised import DISCOVER, advertising, has_own_tasks
from mcp_persist_middleware.tasks.ends import EndOfJob
from mcp_persist_middleware.tasks.extension import Refusal
from mcp_persist_middleware.tasks.offer import TaskOffer, without_session
from mcp_persist_middleware.tasks.state import JobStatus

logger = rarely.logger(__name__)

_ASK_AGAIN = 0.1


@dataclass(frozen=True, slots=True)
class TaskService:
    """For one request of 2026-07-28 that has to do with tasks."""

    context: Context
    app: ASGIApp
    """The application as requests of this revision may call it."""
    asked: Asked
    call: jsonrpc.Call

    @classmethod
    def of(cls, context: Context, app: ASGIApp, asked: Asked) -> "TaskService | None":
        """None for every other request, and where there are no tasks of ours."""
        request = asked.request
        call = request.call
        if call is None or request.era.tasks is not JobFace.EXTENSION:
            return None
        concerns = call.knows_tasks or call.method in extension.METHODS or call.method == DISCOVER
        if not concerns or not context.settings.tasks or context.log.jobs is None:
            return None
        return cls(context, app, asked, call)

    @property
    def application(self) -> ASGIApp:
        """The application that answers, where this does not."""
        is_discovery = self.call.method == DISCOVER
        if not is_discovery:
            return self.app
        return advertising(self.app, self.context.memory, self.asked.scope)

    begun: ClassVar[None] = None
    """A call stays one until its time has come."""

    @property
    def offer(self) -> TaskOffer | None:
        """What the call may become."""
        return TaskOffer.of(self.context, self.app, self.asked)

    async def answer(self, send: Send) -> bool:
        """Answer a question about a task; false where this is none, or not ours to answer."""
        if self.call.method not in extension.METHODS or len(self.call.request_ids) != 1:
            return False
        version = self.asked.request.era.versions[0]
        if await has_own_tasks(self.context.memory, self.app, self.asked.scope, version):
            return False
        verdict = await authorise.ask(self.context, self.app, self.asked.scope)
        if verdict.refused:
            await verdict.pass_on(send)
            return True
        caller = without_session(verdict.caller)
        answer = await self._patiently(caller)
        if answer is None:
            await asgi.unavailable(send, "The event store is unavailable; ask again")
            return True
        request_id, head = self.call.request_id, headers.for_browsers(verdict.answer.headers)
        if isinstance(answer, Refusal):
            await asgi.answer_json(send, answer.response(request_id), *head, status=400)
        else:
            await asgi.answer_json(send, extension.response(request_id, answer), *head)
        return True

    async def _patiently(self, caller: Caller) -> bytes | Refusal | None:
        """The answer, of a store that stumbles too; None where it is away."""
        until = time.monotonic() + self.context.settings.store_timeout
        is_look = self.call.method == "tasks/get" and self.context.settings.rerun is None
        while True:
            left = until - time.monotonic() if is_look else None
            try:
                async with within(left, self.context.log.name):
                    return await self._answer(caller)
            except StoreError as error:
                working = await self._without_store(caller)
                is_away = self.context.writer.is_down or time.monotonic() + _ASK_AGAIN >= until
                if working is not None or is_away:
                    logger.warning("MPM-JOB-03: A task cannot be looked up: %s", error)
                    return working
            await asyncio.sleep(_ASK_AGAIN)

    async def _answer(self, caller: Caller) -> bytes | Refusal:
        params = jsonrpc.params(self.asked.body.content)
        task = params.get("taskId")
        if (refusal := self._fault(params, task)) is not None:
            return refusal
        job = await jobs.own(self.context, caller, task, JobFace.EXTENSION)
        if job is None:
            return extension.NOT_FOUND
        match self.call.method:
            case "tasks/get":
                return await self._get(caller, job)
            case "tasks/cancel":
                await jobs.cancel(self.context, job)
                telemetry.jobs.add(1, {"face": str(job.face), "event": "cancelled"})
            case _:
                given = params.get("inputResponses")
                if not isinstance(given, dict):
                    return Refusal(extension.INVALID_PARAMS, "inputResponses is no object")
                await self._update(job, given)
        return extension.complete()

    def _fault(self, params: dict[str, Any], task: object) -> Refusal | None:
        """What is wrong with the request itself."""
        raw = self.asked.scope["headers"]
        if headers.get(raw, headers.MCP_METHOD) != self.call.method:
            text = "The Mcp-Method header does not match the request body's method"
            return Refusal(extension.HEADER_MISMATCH, text)
        # Clients that are there leave it out: fastmcp-tasks 4.1 does, and no server refuses it.
        is_named = headers.get(raw, headers.MCP_NAME) is not None
        if is_named and task is not None and headers.named(raw) != task:
            text = "The Mcp-Name header does not match the request body's taskId"
            return Refusal(extension.HEADER_MISMATCH, text)
        return None if jsonrpc.knows_tasks(params) else extension.UNDECLARED

    async def _get(self, caller: Caller, job: JobRecord) -> bytes:
        telemetry.jobs.add(1, {"face": str(job.face), "event": "polled"})
        await self._run_again(caller, job)
        found = await state.look(self.context, job)
        now = self.context.log.now()
        return extension.complete(extension.detailed(job, found, now))

    async def _without_store(self, caller: Caller) -> bytes | None:
        """Of a task that runs here it is known that it does, though nothing else is."""
        task = json.loads(self.asked.body.content)["params"].get("taskId")
        job = job_id.parse(task) if self.call.method == "tasks/get" else None
        known = await jobs.running_here(self.context, caller, job) if job is not None else None
        if known is None:
            return None
        now = self.context.log.now()
        working = state.JobState(JobStatus.WORKING, known.updated_at)
        return extension.complete(extension.detailed(known, working, now))

    async def _run_again(self, caller: Caller, job: JobRecord) -> None:
        """Where the `rerun` setting says so, a job whose worker is gone runs again for whoever asks
        for it; where it says no, it has failed now."""
        context = self.context
        record = await context.log.find(job.stream) if context.settings.rerun is not None else None
        left = await context.takeover.left(record) if record is not None else None
        if record is None or left is None or context.draining:
            return
        if not rerun.is_wanted(context, record):
            await context.takeover.end(record, left)
            return
        kept = StoredRequest.unpack(record.request or b"")
        scope, request = kept.scope(caller.scope), kept.request(self.asked.request)
        with contextlib.suppress(SessionElsewhereError):
            await rerun.begin(
                context,
                self.app,
                scope,
                request,
                Body.of(kept.body),
                job.stream,
                outlives=job.expires_at - context.log.now(),
            )
            if (running := jobs.running_of(context, job)) is not None:
                EndOfJob.count(context, running, job)

    # A task whose application has asked its client something.

    async def _update(self, job: JobRecord, given: dict[str, Any]) -> None:
        """Take what a client answers; with the last answer the application is asked again."""
        found = await state.look(self.context, job)
        if found.status is not JobStatus.INPUT_REQUIRED or self.context.log.jobs is None:
            return
        inputs = extension.answered(job, found, given)
        now = self.context.log.now()
        noted = dataclasses.replace(job, inputs=json.dumps(inputs).encode(), updated_at=now)
        if extension.questions(noted, found):
            await self.context.log.jobs.change(noted)
            return
        stream = event_id.new_stream_id(now)
        moved = dataclasses.replace(
            noted,
            stream=stream,
            worker=self.context.member.name,
            round=job.round + 1,
            inputs=b"{}",
        )
        # Once the store has it nobody else goes on, whatever becomes of this request.
        await self.context.tasks.whole(self._move(moved, json.loads(found.answer), inputs))

    async def _move(self, job: JobRecord, asked: dict[str, Any], inputs: dict[str, Any]) -> None:
        known = self.context.log.jobs
        if known is not None and await creation.move(self.context, known, job):
            self._go_on(job, asked, inputs)

    def _go_on(self, job: JobRecord, asked: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Make the request again with its client's answers, on a stream of its own."""
        context, kept = self.context, StoredRequest.unpack(job.request or b"")
        message = kept.message
        params = message["params"]
        params["inputResponses"] = inputs
        params.pop("requestState", None)
        if "requestState" in asked:
            params["requestState"] = asked["requestState"]
        again = StoredRequest(kept.headers, json.dumps(message).encode())
        scope, request = again.scope(self.asked.scope), again.request(self.asked.request)
        running = Exchange(context, self.app, scope, request, nowhere)
        running.recorder.stream_id = job.stream
        ttl = job.expires_at - context.log.now()
        running.recorder.kept = ttl
        EndOfJob.count(context, running, job)
        running.start(Body.of(again.body))
        running.open([], early=True)
        running.opening.announce()
        running.outlive(ttl)
        if running.stream is not None:
            # Nobody reads it here.
            running.stream.detach()
