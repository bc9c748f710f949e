"""A call that takes too long becomes a task, for a client that knows tasks."""

import dataclasses
import json
import logging
import time
from dataclasses import dataclass, field

from starlette.types import ASGIApp

from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.model import JobFace
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.protocol.jsonrpc import Call
from mcp_persist_middleware.streams import authorise
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.streams.stored_request import StoredRequest
from mcp_persist_middleware.tasks import extension, state
from mcp_persist_middleware.tasks.advertised import has_own_tasks
from mcp_persist_middleware.tasks.jobs import JobRequest, begin

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TaskOffer:
    """The `Handoff` of a call that may become a task."""

    context: Context
    app: ASGIApp
    asked: Asked
    at: float
    head: headers.RawHeaders = ()
    _content: bytes = b""
    _caller: Caller | None = field(default=None, init=False)

    @classmethod
    def of(cls, context: Context, app: ASGIApp, asked: Asked) -> "TaskOffer | None":
        """For a call that has just come; None where it is to stay one."""
        call = asked.request.call
        if call is None or not call.knows_tasks or len(call.request_ids) != 1:
            return None
        content = asked.body.content
        if not is_wanted(context, call, content):
            return None
        at = time.monotonic() + context.settings.tasks_after
        return cls(context, app, asked, at, _content=content)

    async def may(self) -> bool:
        """Whether the application has no tasks itself, and does not refuse the caller."""
        if self._caller is not None:
            return True
        memory, scope = self.context.memory, self.asked.scope
        if await has_own_tasks(memory, self.app, scope, self.asked.request.era.versions[0]):
            return False
        verdict = await authorise.ask(self.context, self.app, scope)
        if verdict.refused:
            return False
        self._caller = without_session(verdict.caller)
        self.head = headers.for_browsers(verdict.answer.headers)
        return True

    async def take(self, running: Exchange | None) -> bytes | None:
        """The `CreateTaskResult`, once its task is committed."""
        assert self._caller is not None
        assert running is not None
        kept = StoredRequest.of(self.asked.request, self.asked.scope, self._content)
        request = JobRequest(
            face=JobFace.EXTENSION,
            caller=self._caller,
            ttl=self.context.settings.tasks_ttl,
            kept=kept.pack() if kept is not None else None,
        )
        job = await begin(self.context, running, request)
        if job is None:
            return None
        known = state.JobState(state.JobStatus.WORKING, job.updated_at)
        return extension.created(job, known, job.created_at)


def without_session(caller: Caller) -> Caller:
    """A caller of a revision that knows no sessions, whatever header its client sends."""
    return dataclasses.replace(caller, owner=dataclasses.replace(caller.owner, session=""))


def is_wanted(context: Context, call: Call, content: bytes) -> bool:
    """What `tasks_for` says of a call."""
    asked = context.settings.tasks_for
    if asked is None:
        return True
    if not callable(asked):
        return call.name in asked
    arguments = json.loads(content)["params"].get("arguments") or {}
    try:
        return bool(asked(call.name, arguments))
    except Exception:
        logger.exception("MPM-APP-06: The tasks_for setting raised; the call stays a call")
        return False
