"""Calls that their client cannot wait for and has no tasks for: before its clock runs out it is
told, in an answer that its model reads, to call again with the same arguments. Who does so gets the
result, or waits on.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from starlette.types import ASGIApp, Send

from mcp_persist_middleware import asgi, rarely, telemetry
from mcp_persist_middleware.asgi import account_of, place_of
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.model import JobFace, JobRecord, Owner, RequestId
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.streams import authorise, identity
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.supervision import scoped
from mcp_persist_middleware.tasks import schemas, stored_answer
from mcp_persist_middleware.tasks.joinable import JoinableCall
from mcp_persist_middleware.tasks.same_call import META, ToolCall, key_of, lasting, owned
from mcp_persist_middleware.tasks.state import JobState, JobStatus

logger = rarely.logger(__name__)

NEW_RUN = f"{META}new-run"
"""True in the `_meta` of a call: it is not for what an earlier one has begun."""
_CORS = b"access-control-"
_LONGEST = 300
# So many of a caller's jobs are known by their keys.
_MOST = 64
SEEN = 0.5
"""For so long (seconds) a worker goes by what it has seen of a caller's jobs. A call is handed back
later than that after its job is committed: whoever comes back for it comes to workers that know."""


@dataclass(frozen=True, slots=True)
class HandBack(JoinableCall):
    """One call of a tool that may be handed back, or may be for one that was."""

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
        context, scope = self.context, self.tool.asked.scope
        verdict = await authorise.ask(context, self.app, scope)
        if verdict.refused:
            return verdict, None
        known = place_of(scope), identity.credential(context, scope)
        context.memory.principals[known] = verdict.caller.owner.principal
        return verdict, owned(verdict.caller)

    def key(self, owner: Owner) -> str:
        """What its job is found by."""
        secret = self.context.log.secret
        return key_of(secret, JobFace.HAND_BACK, owner, self.tool.arguments(secret))

    async def _is_first(self, jobs: Jobs) -> bool:
        """Whether it is known at little cost that nothing of an earlier call is there: of most
        there is not. Who has the same credentials is who he was, and a job that is older than what
        was seen of its caller's is among that: see `SEEN`.

        Raises:
            StoreError: the store does not answer.
        """
        context, scope = self.context, self.tool.asked.scope
        place, credential = place_of(scope), identity.credential(context, scope)
        principal = context.memory.principals.get((place, credential))
        if principal is None or context.settings.principal is not None or "user" in scope:
            return False
        owner = lasting(Owner(*place, self.tool.asked.request.session, principal))
        if not owner.is_known:
            return True
        account, now = account_of(scope, principal), time.monotonic()
        known = context.memory.job_keys
        keys, seen_at = known.get(account, (frozenset(), -SEEN))
        if now - seen_at >= SEEN:
            found = await jobs.list(account, b"", _MOST)
            if len(found) == _MOST:
                return await jobs.find_key(place, self.key(owner)) is None
            keys = frozenset(job.key for job in found)
            # By now another memory may have taken the place of this one: of a job that was not
            # seen here its client may know.
            known[account] = keys, now
        return self.key(owner) not in keys

    async def find(self, caller: Caller) -> JobRecord | None:
        """The job that an earlier call for the same has left.

        Raises:
            StoreError: the store does not answer.
        """
        jobs = self.context.log.jobs
        assert jobs is not None
        found = await jobs.find_key(place_of(self.tool.asked.scope), self.key(caller.owner))
        return found if found is not None and await caller.owns(found.owner) else None

    # A call for what was handed back.

    async def answer(self, client: Client, send: Send) -> bool:
        """Answer with what an earlier call has begun; false where there is nothing of that."""
        jobs = self.context.log.jobs
        assert jobs is not None
        try:
            if await self._is_first(jobs):
                return False
            verdict, caller = await self.verdict()
            if caller is None or (job := await self.find(caller)) is None:
                return False
            if self.tool.said.get(NEW_RUN) is True:
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
        jobs, now = self.context.log.jobs, self.context.log.now()
        assert jobs is not None
        if found.status is not JobStatus.COMPLETED:
            await jobs.remove([job.id])
            return
        until, known = now + self.context.settings.hand_back_ttl, job
        while known.expires_at > until and not await jobs.change(replace(known, expires_at=until)):
            # Its stream may just be taken out of a session.
            if (seen := await jobs.find(job.id)) is None:
                return
            known = seen

    def text(self, job: JobRecord, found: JobState) -> bytes:
        """What its client is told while a call goes on."""
        seconds = max(0, round(self.context.log.now() - job.created_at))
        era = self.tool.asked.request.era
        return handed_back(self.request_id, job.tool, seconds, found.message, era)


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
