"""Calls that their client cannot wait for and has no tasks for: before its clock runs out it is
told, in an answer that its model reads, to call again with the same arguments. Who does so gets the
result, or waits on.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from starlette.types import ASGIApp, Send

from mcp_persist_middleware import asgi, rarely, telemetry
from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import JobFace, JobRecord, RequestId
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.streams import authorise
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.supervision import scoped
from mcp_persist_middleware.tasks import schemas, stored_answer
from mcp_persist_middleware.tasks.jobs import JobRequest, begin
from mcp_persist_middleware.tasks.same_call import META, ToolCall, key_of, owned
from mcp_persist_middleware.tasks.state import JobState, JobStatus

logger = rarely.logger(__name__)

NEW_RUN = f"{META}new-run"
"""True in the `_meta` of a call: it is not for what an earlier one has begun."""
_CORS = b"access-control-"
_LONGEST = 300
# How long (seconds) another worker may take to commit the job of a call that runs there.
_LATE, _LOOK = 3.0, 0.25


@dataclass(frozen=True, slots=True)
class HandBack:
    """One call of a tool that may be handed back, or may be for one that was."""

    context: Context
    app: ASGIApp
    tool: ToolCall

    @classmethod
    def of(cls, context: Context, app: ASGIApp, asked: Asked) -> "HandBack | None":
        """None for every other request."""
        settings = context.settings
        if settings.hand_back is None or context.log.jobs is None:
            return None
        tool = ToolCall.of(asked)
        if tool is None or (tool.call.knows_tasks and settings.tasks) or "task" in tool.params:
            return None
        if not tool.is_wanted(settings.hand_back_for, "hand_back_for"):
            return None
        return cls(context, app, tool)

    @property
    def request_id(self) -> RequestId:
        """Of the request that is answered."""
        return self.tool.call.request_id

    async def verdict(self) -> tuple[authorise.Verdict, Caller | None]:
        """What the application says of the caller, and the caller as an owner, if anybody is."""
        verdict = await authorise.ask(self.context, self.app, self.tool.asked.scope)
        return verdict, None if verdict.refused else owned(verdict.caller)

    def key(self, caller: Caller) -> str:
        """What its job is found by."""
        secret = self.context.log.secret
        return key_of(secret, JobFace.HAND_BACK, caller, self.tool.arguments(secret))

    async def find(self, caller: Caller) -> JobRecord | None:
        """The job that an earlier call for the same has left.

        Raises:
            StoreError: the store does not answer.
        """
        jobs = self.context.log.jobs
        assert jobs is not None
        found = await jobs.find_key(place_of(self.tool.asked.scope), self.key(caller))
        return found if found is not None and await caller.owns(found.owner) else None

    # A call for what was handed back.

    async def answer(self, client: Client, send: Send) -> bool:
        """Answer with what an earlier call has begun; false where there is nothing of that."""
        try:
            verdict, caller = await self.verdict()
            if caller is None or (job := await self.find(caller)) is None:
                return False
            jobs = self.context.log.jobs
            if jobs is not None and self.tool.said.get(NEW_RUN) is True:
                await jobs.remove([job.id])
                return False
        except StoreError as error:
            logger.warning("MPM-JOB-04: Whether a call was made before is not known: %s", error)
            return False
        telemetry.jobs.add(1, {"face": str(JobFace.HAND_BACK), "event": "joined"})
        seconds, head = self.context.settings.hand_back or 0.0, cors(verdict)
        with scoped(self._told(job, seconds), "mcp-persist-joined") as known:
            try:
                ping = self.context.settings.ping_seconds
                await stored_answer.deliver(known, client, send, head, ping)
            except StoreError as error:
                logger.warning("MPM-JOB-03: A task cannot be looked up: %s", error)
                await asgi.unavailable(send, "The event store is unavailable; ask again")
        return True

    async def _told(self, job: JobRecord, seconds: float) -> bytes:
        found = await stored_answer.over(self.context, job, seconds)
        if not found.status.is_over:
            return self.text(job, found)
        await self._fetched(job, found)
        return stored_answer.message(self.request_id, found)

    async def _fetched(self, job: JobRecord, found: JobState) -> None:
        """A result may be lost on its way, and is kept for a while; an error stands in nobody's
        way."""
        jobs, until = self.context.log.jobs, self.context.log.now()
        assert jobs is not None
        if found.status is not JobStatus.COMPLETED:
            await jobs.remove([job.id])
        elif job.expires_at > (until := until + self.context.settings.hand_back_ttl):
            await jobs.change(replace(job, expires_at=until))

    def text(self, job: JobRecord, found: JobState) -> bytes:
        """What its client is told while a call goes on."""
        seconds = max(0, round(self.context.log.now() - job.created_at))
        era = self.tool.asked.request.era
        return handed_back(self.request_id, job.tool, seconds, found.message, era)


@dataclass(slots=True)
class HandBackOffer:
    """The `Handoff` of a call that runs here."""

    call: HandBack
    at: float
    head: headers.RawHeaders = ()
    _began: float = field(default_factory=time.monotonic)
    _caller: Caller | None = None

    @classmethod
    def of(cls, call: HandBack) -> "HandBackOffer":
        """For a call that has just come."""
        return cls(call, time.monotonic() + (call.context.settings.hand_back or 0.0))

    async def may(self) -> bool:
        """Whether its caller is known, and anything but its result may answer it."""
        call = self.call
        verdict, self._caller = await call.verdict()
        if self._caller is None:
            return False
        self.head = cors(verdict)
        era, context, tool = call.tool.asked.request.era, call.context, call.tool.call.name
        version = None if era.keeps_sessions else era.versions[0]
        scope = call.tool.asked.scope
        match await schemas.promises_more(context.memory, call.app, scope, version, tool):
            case False:
                return True
            case True:
                _say_left(context, tool, "it has an output schema that the word would break")
            case None:
                _say_left(context, tool, "whether it has an output schema could not be learnt")
        return False

    async def take(self, running: Exchange | None) -> bytes | None:
        """What answers the call, once its job is committed."""
        call, caller = self.call, self._caller
        assert caller is not None
        if running is None:
            return None
        ttl, key = call.context.settings.detach_seconds, call.key(caller)
        age = time.monotonic() - self._began
        request = JobRequest(face=JobFace.HAND_BACK, caller=caller, ttl=ttl, age=age, key=key)
        job = await begin(call.context, running, request)
        if job is None:
            return None
        try:
            found = await stored_answer.over(call.context, job, 0)
        except StoreError:
            found = JobState(JobStatus.WORKING, job.updated_at)
        if found.status.is_over:
            return stored_answer.message(call.request_id, found)
        return call.text(job, found)

    async def keep(self, running: Exchange) -> None:
        """The same for a client whose connection is another worker's: that one looks for the
        job."""
        stream = running.stream
        while stream is not None and not stream.ended:
            if (left := self.at - time.monotonic()) > 0:
                await stream.signal.wait(left)
            elif await self.may():
                await self.take(running)
                return
            else:
                return


@dataclass(slots=True)
class DistantOffer:
    """The `Handoff` of a call that runs on another worker, which makes its job."""

    call: HandBack
    stream: bytes
    at: float
    head: headers.RawHeaders = ()
    _job: JobRecord | None = None

    @classmethod
    def of(cls, call: HandBack, stream: bytes) -> "DistantOffer":
        """For a call that has just begun there."""
        return cls(call, stream, time.monotonic() + (call.context.settings.hand_back or 0.0))

    async def may(self) -> bool:
        """Whether that worker has handed the call back."""
        until = time.monotonic() + _LATE
        try:
            verdict, caller = await self.call.verdict()
            self.head = cors(verdict)
            while caller is not None:
                self._job = await self.call.find(caller)
                if self._job is not None and self._job.stream == self.stream:
                    return True
                if time.monotonic() > until:
                    return False
                await asyncio.sleep(_LOOK)
        except StoreError as error:
            logger.warning("MPM-JOB-04: Whether a call was made before is not known: %s", error)
        return False

    async def take(self, running: Exchange | None) -> bytes | None:
        """What answers the call."""
        del running
        assert self._job is not None
        try:
            found = await stored_answer.over(self.call.context, self._job, 0)
        except StoreError:
            return None
        return None if found.status.is_over else self.call.text(self._job, found)


def handed_back(request_id: RequestId, tool: str, seconds: int, progress: str, era: Era) -> bytes:
    """An ordinary result, which a model understands."""
    news = f" Its last progress message: {json.dumps(progress[:_LONGEST])}." if progress else ""
    name = json.dumps(tool)
    text = (
        f"The tool {name} is still running, for {seconds} seconds so far.{news} This is not its "
        f"result. To get the result, call {name} again with exactly the same arguments: that does "
        "not start it a second time, it waits for the run that is under way."
    )
    # Where the tool promises a text in an object, it is one.
    result: Mapping[str, object] = {
        "content": [{"type": "text", "text": text}],
        "structuredContent": {schemas.RESULT: text},
        "isError": False,
    }
    if not era.keeps_sessions:
        result = {"resultType": "complete", **result}
    message = {"jsonrpc": "2.0", "id": request_id, "result": result}
    return json.dumps(message, separators=(",", ":")).encode()


def cors(verdict: authorise.Verdict) -> headers.RawHeaders:
    """What the application gives any answer to this caller, for a browser."""
    said = verdict.answer.headers
    return [pair for pair in said if pair[0].lower().startswith(_CORS)]


def _say_left(context: Context, tool: str, why: str) -> None:
    said = f"hand_back {tool}"
    if said not in context.memory.warned:
        context.memory.warned.add(said)
        logger.warning("MPM-JOB-05: A call of %r is not handed back: %s", tool, why)
