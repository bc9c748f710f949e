"""What the calls of a session have answered, or will, when the session is deleted: what their
principal may ask for outside of it goes on and stays. There are clients that make a session for
each call, and delete it when they give up on that.
"""

import dataclasses
from dataclasses import dataclass, field

from starlette.types import ASGIApp

from mcp_persist_middleware import rarely
from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import (
    Ending,
    Event,
    JobFace,
    JobRecord,
    StreamRecord,
    StreamState,
    StreamWrite,
    surely,
)
from mcp_persist_middleware.protocol import event_id
from mcp_persist_middleware.streams import authorise
from mcp_persist_middleware.streams.context import Context

logger = rarely.logger(__name__)

# Of one caller so many jobs, the newest, are looked at.
_MOST = 100
_LOOK = 1.0
_FACES = (JobFace.HAND_BACK, JobFace.IDEMPOTENCY)


@dataclass(slots=True)
class Leftovers:
    """The jobs of one session that are not the session's."""

    context: Context
    running: list[tuple[JobRecord, LiveStream]] = field(default_factory=list)
    ended: list[JobRecord] = field(default_factory=list)

    @classmethod
    async def of(cls, context: Context, app: ASGIApp, asked: Asked) -> "Leftovers":
        """What there is of the session that is to be deleted."""
        found, settings = cls(context), context.settings
        if settings.hand_back is None and not settings.idempotency:
            return found
        verdict = await authorise.ask(context, app, asked.scope)
        if not verdict.refused and surely(verdict.caller.owner.principal):
            try:
                await found._look(asked, verdict.caller.account)
            except StoreError as error:
                found._say(error)
        return found

    async def _look(self, asked: Asked, account: str) -> None:
        log, place, session = self.context.log, place_of(asked.scope), asked.request.session
        for job in await log.jobs.list(account, b"", _MOST) if log.jobs is not None else ():
            is_meant = job.face in _FACES and not job.owner.session and job.owner.place == place
            if not is_meant or job.expires_at <= log.now():
                continue
            live = self.context.writer.live.get(job.stream)
            record = live.record if live is not None else await log.find(job.stream)
            if record is None or record.owner.session != session:
                continue
            if live is not None:
                self.running.append((job, live))
            elif record.state is not StreamState.OPEN:
                self.ended.append(job)

    async def keep(self) -> None:
        """Wait until what runs has ended, and take all that was answered out of the session."""
        for job, live in self.running:
            while not live.ended:
                await live.signal.wait(_LOOK)
            self.ended.append(job)
        for job in self.ended:
            try:
                record = await self.context.log.find(job.stream)
                if record is not None:
                    await self._take_out(job, record)
            except StoreError as error:
                self._say(error)

    async def _take_out(self, job: JobRecord, record: StreamRecord) -> None:
        log, jobs = self.context.log, self.context.log.jobs
        answers = await log.answers(job.stream)
        if jobs is None or not answers.events:
            return
        now, stream = log.now(), event_id.new_stream_id(log.now())
        begun = dataclasses.replace(
            record,
            id=stream,
            owner=dataclasses.replace(record.owner, session=""),
            epoch=1,
            state=StreamState.OPEN,
            last_sequence=0,
            worker=self.context.member.name,
            ended_at=None,
            expires_at=None,
            request=None,
        )
        last = answers.events[-1]
        event = Event(1, 1, last.kind, last.frame)
        ending = Ending(record.state, 1, record.ended_at or now, max(job.expires_at, now))
        await log.append([StreamWrite(stream, 1, begun, events=(event,), ending=ending)])
        now_known: JobRecord | None = job
        # Somebody may be fetching it.
        while now_known is not None:
            if await jobs.change(dataclasses.replace(now_known, stream=stream)):
                return
            now_known = await jobs.find(job.id)

    def _say(self, error: StoreError) -> None:
        logger.warning("MPM-JOB-09: What a deleted session's calls answer is not kept: %s", error)
