"""Sees that a job that runs here was cancelled elsewhere: its stream is not this worker's any
more."""

import asyncio
import contextlib
from collections import Counter

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.deletions import Deletion, Reason
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import JobEnd, JobFace, JobRecord
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.tasks import ends, state
from mcp_persist_middleware.tasks.creation import take_back
from mcp_persist_middleware.tasks.state import JobStatus

# However often it is woken, it looks no sooner than after so long (seconds).
_PAUSE = 0.5
_PAGE = 500
_PURGED = 500


def topic(worker: str) -> bytes:
    """What wakes it."""
    return b"jobs:" + worker.encode()


class JobWatch:
    """What runs beside the requests of one worker for its jobs."""

    def __init__(self, context: Context, jobs: Jobs) -> None:
        self._context = context
        self._jobs = jobs
        self._gone: Counter[str] = Counter()
        """What has expired in each namespace and is not noted yet."""

    async def run(self) -> None:
        """Run until cancelled; without jobs here nothing is asked."""
        context = self._context
        while True:
            await asyncio.sleep(_PAUSE)
            await take_back(context, self._jobs)
            if not context.outliving:
                continue
            subscription = context.log.wakeups.subscribe(topic(context.member.name))
            try:
                while context.outliving:
                    await asyncio.sleep(_PAUSE)
                    await subscription.wait()
                    await take_back(context, self._jobs)
                    await self._look()
            finally:
                subscription.close()

    async def _look(self) -> None:
        """The application hears of each that is not ours any more; a store that does not answer is
        asked again."""
        with contextlib.suppress(StoreError):
            mine = await self._open_streams()
            for running in list(self._context.outliving):
                stream = running.stream
                if stream is None or stream.record.id in mine:
                    continue
                if await self._is_taken(stream):
                    if isinstance(running, Exchange):
                        # Whoever has taken it counts how it ends.
                        running.recorder.on_end = None
                    running.leave()

    async def _is_taken(self, stream: LiveStream) -> bool:
        """Whether somebody else has ended it, or goes on with it."""
        if not stream.created or stream.ended or stream.ending is not None:
            return False
        record = await self._context.log.find(stream.record.id)
        return record is None or record.epoch != stream.record.epoch

    async def _open_streams(self) -> set[bytes]:
        """All that the store knows to be written here."""
        log, mine, after = self._context.log, set[bytes](), b""
        # Whoever has begun meanwhile is not missed.
        while page := await log.open_streams_of(self._context.member.name, _PAGE, after):
            mine |= {record.id for record in page}
            after = page[-1].id
        return mine

    async def purge(self) -> None:
        """Forget what has expired, and note that.

        Raises:
            StoreError: the store does not answer.
        """
        log, full = self._context.log, True
        while full:
            gone = await self._jobs.purge(self._jobs.now(), _PURGED)
            full = len(gone) >= _PURGED
            self._gone.update(job.owner.namespace for job in gone)
            for job in gone:
                await self._count_end(job)
        if told := [(where, count) for where, count in self._gone.items() if count]:
            now = log.now()
            await log.note_deletions([Deletion(now, Reason.AGE, w, "jobs", n) for w, n in told])
            self._gone.clear()

    async def _count_end(self, job: JobRecord) -> None:
        """Of a task that has waited for its client to its end: no stream of its says so."""
        if job.face is JobFace.EXTENSION and job.request is not None:
            with contextlib.suppress(StoreError):
                found = await state.seen(self._context.log, job)
                if found.status is JobStatus.INPUT_REQUIRED:
                    ends.count(job, JobEnd.EXPIRED)
