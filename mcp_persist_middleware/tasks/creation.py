"""How a job gets into the store, and out of it again where nobody goes by it."""

import asyncio
import contextlib
import time

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import JobCreation, JobRecord
from mcp_persist_middleware.streams.context import Context

# A store that stumbles is asked again after so long (seconds).
_ASK_AGAIN = 0.1


async def create(
    context: Context, jobs: Jobs, job: JobRecord, running: LiveStream | None = None
) -> JobCreation:
    """Commit a new job, as `Jobs.create` does; a store that stumbles is asked again, within its
    time-out, as long as the call is `running`.

    Raises:
        StoreError: it does not say that it has the job. If it has, it is told to forget it.
    """
    until, is_known, again = time.monotonic() + context.settings.store_timeout, False, False
    try:
        while True:
            try:
                made = await _create(context, jobs, job, again=again)
            except StoreError:
                is_answered = running is not None and running.ending is not None
                is_late = time.monotonic() + _ASK_AGAIN >= until
                if is_answered or is_late or context.writer.is_down:
                    raise
            else:
                is_known = True
                return made
            again = True
            await asyncio.sleep(_ASK_AGAIN)
    finally:
        if not is_known:
            # Also where the caller is cancelled: what is on its way to the store arrives.
            context.doubtful[job.id] = time.monotonic()


async def _create(context: Context, jobs: Jobs, job: JobRecord, *, again: bool) -> JobCreation:
    settings = context.settings
    made = await jobs.create(job, settings.max_jobs_in_all, settings.max_jobs)
    if again and made is JobCreation.TAKEN and await jobs.find(job.id) is not None:
        # The store has heard the attempt before this one, and was not heard.
        return JobCreation.CREATED
    return made


async def move(context: Context, jobs: Jobs, moved: JobRecord) -> bool:
    """Put a job on another stream, as `Jobs.change` does; whether it is on that. A store that
    stumbles is asked again, within its time-out.

    Raises:
        StoreError: it does not say.
    """
    until, again = time.monotonic() + context.settings.store_timeout, False
    while True:
        try:
            if await jobs.change(moved):
                return True
            # The store may have heard the attempt before this one, and was not heard.
            now = await jobs.find(moved.id) if again else None
        except StoreError:
            if context.writer.is_down or time.monotonic() + _ASK_AGAIN >= until:
                raise
        else:
            return now is not None and now.stream == moved.stream
        again = True
        await asyncio.sleep(_ASK_AGAIN)


async def take_back(context: Context, jobs: Jobs) -> None:
    """Have the store forget the jobs that it may have, and that nobody goes by. Whoever asks for
    the same again would be told of a call that was never run."""
    if not context.doubtful:
        return
    now, doubtful = time.monotonic(), dict(context.doubtful)
    with contextlib.suppress(StoreError):
        await jobs.remove(doubtful)
        for job, asked_at in doubtful.items():
            # By now it is not on its way any more.
            if now - asked_at > context.settings.lease_seconds:
                context.doubtful.pop(job, None)
