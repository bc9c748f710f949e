"""Calls with a key of their client's: of all that have the same one runs, and each gets its answer.

The key is the header of draft-ietf-httpapi-idempotency-key-header, or stands in the `_meta` of the
call, where no proxy and no client library loses it. It belongs to its principal; a call with
another tool or other arguments under the same key is a mistake that is told. Before the call runs
its key is committed, and before its answer is told that is: whoever has lost it finds it.
"""

import asyncio
import json
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Send

from mcp_persist_middleware import asgi, rarely, telemetry
from mcp_persist_middleware.asgi import account_of, place_of
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.model import JobCreation, JobFace, JobRecord
from mcp_persist_middleware.protocol import event_id, headers, job_id, jsonrpc
from mcp_persist_middleware.streams import authorise
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.supervision import scoped
from mcp_persist_middleware.tasks import creation, stored_answer
from mcp_persist_middleware.tasks.ends import EndOfJob
from mcp_persist_middleware.tasks.extension import INVALID_PARAMS
from mcp_persist_middleware.tasks.hand_back import cors
from mcp_persist_middleware.tasks.joinable import JoinableCall
from mcp_persist_middleware.tasks.same_call import META, ToolCall, key_of, owned

logger = rarely.logger(__name__)

HEADER = b"idempotency-key"
NAME = f"{META}idempotency-key"
_LONGEST = 255
_LOOK = 0.05
_OTHER = (
    "Conflict: this idempotency key belongs to a call of another tool or with other arguments; "
    "use a new key for a new call"
)
_MANY = "Too many calls of this caller wait or are kept; ask again later"
_AWAY = "The event store is unavailable, and whether this call has run is not known; ask again"
_STOPS = "The server is about to stop while the call goes on; ask again"


@dataclass(frozen=True, slots=True)
class Idempotent(JoinableCall):
    """One call of a tool that has a key."""

    key: str

    @classmethod
    def of(cls, context: Context, app: ASGIApp, asked: Asked) -> "Idempotent | None":
        """None for every other request."""
        if not context.settings.idempotency or context.log.jobs is None:
            return None
        header = headers.get(asked.scope["headers"], HEADER)
        if header is None and NAME.encode() not in asked.body.content:
            return None
        tool = ToolCall.of(asked)
        if tool is None:
            return None
        told = tool.said.get(NAME, header)
        # The draft has it as a string of structured fields, in quotes; most send it bare.
        key = told.strip().strip('"') if isinstance(told, str) else ""
        return cls(context, app, tool, key)

    @property
    def _jobs(self) -> Jobs:
        assert self.context.log.jobs is not None
        return self.context.log.jobs

    async def answer(self, client: Client, send: Send) -> bool:
        """Answer with what an earlier call has begun, or with what is wrong; false where this call
        is the first, or its caller is nobody who is known."""
        if not 0 < len(self.key) <= _LONGEST:
            text = f"The idempotency key is not a text of 1 to {_LONGEST} characters"
            await self._refuse(send, text, "idempotency_key")
            return True
        try:
            verdict = await authorise.ask(self.context, self.app, self.tool.asked.scope)
            caller = None if verdict.refused else owned(verdict.caller)
            if caller is None:
                # A refusal is the application's own to say.
                self._say_unknown(verdict)
                return False
            job = await self._jobs.find_key(place_of(self.tool.asked.scope), self._name(caller))
            if job is None:
                return False
            await self._join(job, caller, client, send, cors(verdict))
        except StoreError as error:
            await self._away(send, error)
        return True

    async def claim(self, running: Exchange, client: Client, send: Send) -> bool:
        """Have this call run under its key; false where it has been answered instead."""
        until = time.monotonic() + self.context.settings.store_timeout
        try:
            verdict = await authorise.ask(self.context, self.app, self.tool.asked.scope)
            caller = None if verdict.refused else owned(verdict.caller)
            if caller is None:
                return True
            job = self._record(caller)
            while (
                made := await creation.create(self.context, self._jobs, job)
            ) is JobCreation.TAKEN:
                # Another was faster. Its job may come to the store behind its key.
                if await self.answer(client, send):
                    return False
                if time.monotonic() >= until:
                    missing = StoreError(url=self.context.log.name, reason="a key has no job")
                    await self._away(send, missing)
                    return False
                await asyncio.sleep(_LOOK)
        except StoreError as error:
            await self._away(send, error)
            return False
        if made is JobCreation.FULL:
            telemetry.jobs.add(1, {"face": str(job.face), "event": "refused"})
            await asgi.unavailable(send, _MANY)
            return False
        telemetry.jobs.add(1, {"face": str(job.face), "event": "created"})
        EndOfJob.count(self.context, running, job)
        recorder, running.head = running.recorder, cors(verdict)
        recorder.stream_id, recorder.kept = job.stream, self.context.settings.tasks_ttl
        recorder.is_asked_here = False
        return True

    def _name(self, caller: Caller) -> str:
        return key_of(self.context.log.secret, JobFace.IDEMPOTENCY, caller.owner, self.key)

    def _record(self, caller: Caller) -> JobRecord:
        context, now = self.context, self.context.log.now()
        return JobRecord(
            id=job_id.new(now),
            owner=caller.owner,
            account=account_of(caller.scope, caller.owner.principal),
            face=JobFace.IDEMPOTENCY,
            worker=context.member.name,
            tool=self.tool.call.name,
            stream=event_id.new_stream_id(now),
            request_id=json.dumps(self.tool.call.request_id),
            created_at=now,
            updated_at=now,
            expires_at=now + context.settings.tasks_ttl,
            key=self._name(caller),
            arguments=self.tool.arguments(context.log.secret),
        )

    async def _join(
        self, job: JobRecord, caller: Caller, client: Client, send: Send, head: headers.RawHeaders
    ) -> None:
        arguments = self.tool.arguments(self.context.log.secret)
        if job.arguments != arguments or not await caller.owns(job.owner):
            await self._refuse(send, _OTHER, "idempotency_conflict")
            return
        telemetry.jobs.add(1, {"face": str(job.face), "event": "joined"})
        with scoped(self._told(job), "mcp-persist-repeated") as known:
            ping = self.context.settings.ping_seconds
            await stored_answer.deliver(known, client, send, head, ping)

    async def _told(self, job: JobRecord) -> bytes:
        request_id = self.tool.call.request_id
        left = job.expires_at - self.context.log.now()
        found = await stored_answer.over(self.context, job, left)
        if found.status.is_over:
            return stored_answer.message(request_id, found)
        return jsonrpc.error(request_id, _STOPS, {"resumable": True}, jsonrpc.INTERRUPTED)

    async def _refuse(self, send: Send, text: str, reason: str) -> None:
        data = {"reason": reason, "status": 409 if reason == "idempotency_conflict" else 400}
        error = jsonrpc.error(self.tool.call.request_id, text, data, INVALID_PARAMS)
        await asgi.answer_json(send, error)

    async def _away(self, send: Send, error: StoreError) -> None:
        logger.warning("MPM-JOB-06: A call with an idempotency key is not run: %s", error)
        await asgi.unavailable(send, _AWAY)

    def _say_unknown(self, verdict: authorise.Verdict) -> None:
        warned = self.context.memory.warned
        if not verdict.refused and "idempotency" not in warned:
            warned.add("idempotency")
            logger.warning(
                "MPM-JOB-07: An idempotency key counts nothing: its call has neither a session nor "
                "a principal; pass principal= to name the caller"
            )
