"""Jobs whose worker died between their commit and the stream that answers them: the stream is begun
in its name, and ends as any other that it has left."""

import json

from mcp_persist_middleware.log.membership.peers import PeerStatus
from mcp_persist_middleware.model import (
    JobRecord,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.streams.context import Context

# So many of the newest jobs are looked at when a worker has died.
_PAGE, _PAGES = 500, 20


def patience(context: Context) -> float:
    """How long the stream of a job may be on its way to the store."""
    return context.settings.store_timeout + context.settings.lease_seconds


async def find(context: Context, job: JobRecord) -> StreamRecord | None:
    """The stream of a job that has none, if its worker died before that: of one that may be to
    come, and of one that was there and has gone, there is none.

    Raises:
        StoreError: the store does not answer.
    """
    if job.worker == context.member.name:
        return None
    left = await context.member.peers.verify(job.worker)
    if not left.gone or not _is_meant(context, job, left):
        return None
    await _begin(context, job)
    return await context.log.find(job.stream)


async def begin_all(context: Context, worker: str, left: PeerStatus) -> None:
    """Begin all that a worker that is gone has not begun: not everybody comes back for it.

    Raises:
        StoreError: the store does not do it.
    """
    jobs, before = context.log.jobs, b""
    for _ in range(_PAGES if jobs is not None and left.seen_at is not None else 0):
        assert jobs is not None
        page = await jobs.list(None, before, _PAGE)
        for job in page:
            is_meant = job.worker == worker and _is_meant(context, job, left)
            if is_meant and await context.log.find(job.stream) is None:
                await _begin(context, job)
        if len(page) < _PAGE or page[-1].updated_at < _earliest(context, left):
            return
        before = page[-1].id


def _is_meant(context: Context, job: JobRecord, left: PeerStatus) -> bool:
    return left.seen_at is not None and job.updated_at >= _earliest(context, left)


def _earliest(context: Context, left: PeerStatus) -> float:
    """What it has begun before has come to the store."""
    return (left.seen_at or 0.0) - patience(context)


async def _begin(context: Context, job: JobRecord) -> None:
    record = StreamRecord(
        id=job.stream,
        kind=StreamKind.POST,
        owner=job.owner,
        epoch=1,
        state=StreamState.OPEN,
        last_sequence=0,
        worker=job.worker,
        created_at=job.updated_at,
        ended_at=None,
        expires_at=None,
        request_ids=json.dumps([json.loads(job.request_id)]),
        trace="",
    )
    # Two who do so write the same.
    await context.log.append([StreamWrite(job.stream, 1, record)])
