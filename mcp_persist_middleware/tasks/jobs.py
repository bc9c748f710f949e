"""How a running exchange becomes a job, who may ask for it, and how it is cancelled."""

import dataclasses
import json
import time
from dataclasses import dataclass

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.asgi import account_of
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log import stopping
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import (
    Ending,
    Event,
    EventKind,
    ExchangeOutcome,
    JobCreation,
    JobEnd,
    JobFace,
    JobRecord,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.protocol import event_id, job_id, jsonrpc, sse
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.tasks import creation, ends, state
from mcp_persist_middleware.tasks.ends import EndOfJob
from mcp_persist_middleware.tasks.state import CANCELLED
from mcp_persist_middleware.tasks.watch import topic

logger = rarely.logger(__name__)

_WHY = "its client has cancelled it"
# A wake-up may be lost.
_LOOK = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What a job is begun with."""

    face: JobFace
    caller: Caller
    """Whom the application has named, and not refused."""
    ttl: float
    """For how long (seconds) the job may run and its result is kept."""
    age: float = 0.0
    """How long (seconds) the call has been under way, where that is to be told."""
    kept: bytes | None = None
    """The request as it may be made again (`StoredRequest`), or None."""
    key: str = ""
    arguments: str = ""


async def begin(context: Context, running: Exchange, request: JobRequest) -> JobRecord | None:
    """Commit the job of a running exchange that has a stream, and let it outlive its client. None
    where there may be no more jobs, or the store does not take one now: the call stays a call."""
    jobs, stream, call = context.log.jobs, running.stream, running.request.call
    if jobs is None or stream is None or call is None:
        return None
    # It may end while its job is on the way to the store.
    before, running.recorder.kept = running.recorder.kept, request.ttl
    job = _record(context, stream, call, request)
    end = EndOfJob(context, running, job)
    try:
        created = await _committed(context, stream) and await _created(context, jobs, job, stream)
    except StoreError as error:
        logger.warning("MPM-JOB-02: A call stays a call, for its job cannot be stored: %s", error)
        created = False
    telemetry.jobs.add(1, {"face": str(request.face), "event": "created" if created else "refused"})
    if not created:
        running.recorder.kept = before
        return None
    end.confirm()
    running.outlive(request.ttl)
    # Its answer is asked for later, by whoever: it is told when it is committed.
    running.recorder.is_asked_here = False
    context.jobs[job.id] = dataclasses.replace(job, request=None)
    return job


async def _created(context: Context, jobs: Jobs, job: JobRecord, running: LiveStream) -> bool:
    created, settings = await creation.create(context, jobs, job, running), context.settings
    if created is JobCreation.FULL:
        logger.warning(
            "MPM-JOB-01: A call stays a call: there are max_jobs=%d of its caller, or "
            "max_jobs_in_all=%d, and none of them has ended",
            settings.max_jobs,
            settings.max_jobs_in_all,
        )
    return created is JobCreation.CREATED


async def _committed(context: Context, stream: LiveStream) -> bool:
    """Whether a stream is in the store, in time."""
    until = time.monotonic() + context.settings.store_timeout
    context.writer.hurry(stream)
    while not (stream.created or stream.degraded) and time.monotonic() < until:
        await stream.signal.wait(_LOOK)
    return stream.created and not stream.degraded


def _record(
    context: Context, stream: LiveStream, call: jsonrpc.Call, request: JobRequest
) -> JobRecord:
    now, caller = context.log.now(), request.caller
    return JobRecord(
        id=job_id.new(now),
        owner=caller.owner,
        account=account_of(caller.scope, caller.owner.principal),
        face=request.face,
        worker=context.member.name,
        tool=call.name,
        stream=stream.record.id,
        request_id=json.dumps(call.request_id),
        created_at=now - request.age,
        updated_at=now,
        expires_at=now + request.ttl,
        key=request.key,
        arguments=request.arguments,
        request=request.kept,
    )


async def own(context: Context, caller: Caller, task: object, face: JobFace) -> JobRecord | None:
    """A job by the name that a client has for it, if it is the caller's and has not expired.

    Raises:
        StoreError: the store does not answer.
    """
    name = job_id.parse(task) if isinstance(task, str) else None
    # What is no id of ours is looked for as one that is: both take the same time.
    job = await context.log.jobs.find(name or bytes(24)) if context.log.jobs is not None else None
    if job is None or not await caller.owns(job.owner):
        return None
    return job if job.face is face and job.expires_at > context.log.now() else None


async def cancel(context: Context, job: JobRecord) -> None:
    """End a job, if it has not ended: its stream with an error that says so, and the call wherever
    it runs. Of its answer and this, one comes first.

    Raises:
        StoreError: the store does not answer.
    """
    running = running_of(context, job)
    if running is not None and running.stream is not None:
        running.interrupt(_WHY, ExchangeOutcome.CANCELLED, **{CANCELLED: True})
        await _ended(context, running.stream)
        return
    with context.takeover.holding(job.stream):
        await cancel_elsewhere(context.log, job, context.settings, context.member.name)


def running_of(context: Context, job: JobRecord) -> Exchange | None:
    """What runs a job here."""
    for running in context.outliving:
        stream = running.stream
        if isinstance(running, Exchange) and stream is not None and stream.record.id == job.stream:
            return running
    return None


async def running_here(context: Context, caller: Caller, job: bytes) -> JobRecord | None:
    """A job of the caller's that runs on this worker, whatever the store says or does not."""
    known = context.jobs.get(job)
    if known is None or known.expires_at <= context.log.now():
        return None
    running = running_of(context, known)
    is_running = running is not None and running.is_busy
    return known if is_running and await caller.owns(known.owner) else None


async def cancel_elsewhere(log: EventLog, job: JobRecord, settings: Settings, by: str) -> None:
    """The same of a job that does not run here.

    Args:
        by: the worker, or who else writes what has to be written.

    Raises:
        StoreError: the store does not answer.
    """
    record = await log.find(job.stream)
    if record is None:
        return
    if record.state is not StreamState.OPEN:
        await _cancel_asking(log, job, record, by)
        return
    kept = max(job.expires_at - log.now(), settings.kept_for(record.owner))
    why = f"Interrupted: {_WHY}"

    def count_end(_: StreamRecord) -> None:
        ends.count(job, JobEnd.CANCELLED)

    await stopping.stop(log, record, kept, by, why, count_end, **{CANCELLED: True})
    log.wakeups.publish([topic(record.worker)])


async def _ended(context: Context, stream: LiveStream) -> None:
    until = time.monotonic() + context.settings.store_timeout
    while not stream.ended and time.monotonic() < until:
        await stream.signal.wait(_LOOK)


async def _cancel_asking(log: EventLog, job: JobRecord, record: StreamRecord, by: str) -> None:
    """Of a job whose client was asked something, and which runs nowhere: a stream that says so
    takes the place of the one that asks."""
    jobs, now = log.jobs, log.now()
    asks = (await state.seen(log, job)).status is state.JobStatus.INPUT_REQUIRED
    if jobs is None or not asks:
        return
    stream = event_id.new_stream_id(now)
    data = {"stream": event_id.EventIds.of(stream, StreamKind.POST, None).name, CANCELLED: True}
    error = jsonrpc.error(
        json.loads(job.request_id), f"Interrupted: {_WHY}", data, jsonrpc.INTERRUPTED
    )
    event = Event(1, 1, EventKind.RESPONSE, sse.event(error))
    ending = Ending(StreamState.FAILED, 1, now, job.expires_at)
    begun = dataclasses.replace(
        record,
        id=stream,
        epoch=1,
        state=StreamState.OPEN,
        last_sequence=0,
        worker=by,
        created_at=now,
        ended_at=None,
        expires_at=None,
        request=None,
    )
    await log.append([StreamWrite(stream, 1, begun, events=(event,), ending=ending)])
    if await jobs.change(dataclasses.replace(job, stream=stream, updated_at=now)):
        ends.count(job, JobEnd.CANCELLED)
