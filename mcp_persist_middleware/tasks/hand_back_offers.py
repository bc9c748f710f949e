"""The two ends of a call that is to be handed back: where it runs its job is made, and where its
client is, which may be another worker, it is told so."""

import asyncio
import time
from dataclasses import dataclass, field

from mcp_persist_middleware import rarely
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import JobFace, JobRecord
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.tasks import schemas, stored_answer
from mcp_persist_middleware.tasks.hand_back import SEEN, HandBack, cors
from mcp_persist_middleware.tasks.jobs import JobRequest, begin

logger = rarely.logger(__name__)

# How long (seconds) another worker may take to commit the job of a call that runs there.
_LATE, _LOOK = 3.0, 0.25


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
        ttl, key = call.context.settings.detach_seconds, call.key(caller.owner)
        age = time.monotonic() - self._began
        request = JobRequest(face=JobFace.HAND_BACK, caller=caller, ttl=ttl, age=age, key=key)
        try:
            job = await begin(call.context, running, request)
            # Of two that were made at the same time the first one's result is for both.
            job = job or await call.find(caller)
            if job is None:
                return None
            await self._known()
            found = await stored_answer.over(call.context, job, 0)
        except StoreError as error:
            logger.warning("MPM-JOB-02: A call stays a call, for its job is not known: %s", error)
            return None
        if found.status.is_over:
            return stored_answer.message(call.request_id, found)
        return call.text(job, found)

    async def _known(self) -> None:
        """Wait until every worker knows of the job."""
        context = self.call.context
        context.memory.forget_job_keys()
        if context.member.peers.has_peers(context.member.name):
            await asyncio.sleep(1.5 * SEEN)

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
        # As where it runs: every worker is to know of the job by then.
        await asyncio.sleep(1.5 * SEEN)
        try:
            found = await stored_answer.over(self.call.context, self._job, 0)
        except StoreError:
            return None
        return None if found.status.is_over else self.call.text(self._job, found)


def _say_left(context: Context, tool: str, why: str) -> None:
    said = f"hand_back {tool}"
    if said not in context.memory.warned:
        context.memory.warned.add(said)
        logger.warning("MPM-JOB-05: A call of %r is not handed back: %s", tool, why)
