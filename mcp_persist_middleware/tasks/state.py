"""What has become of a job, read from its stream."""

import asyncio
import enum
import json
import re
import time
from dataclasses import dataclass
from typing import Any, Protocol

from mcp_persist_middleware.log.base import Answers
from mcp_persist_middleware.log.membership.peers import PeerStatus
from mcp_persist_middleware.model import (
    Event,
    EventKind,
    JobFace,
    JobRecord,
    StreamRecord,
    StreamState,
)
from mcp_persist_middleware.protocol import jsonrpc, sse
from mcp_persist_middleware.streams.context import Context, LastProgress
from mcp_persist_middleware.tasks import unbegun

# How much of a stream's end is looked at for progress.
_EVENTS, _BYTES = 32, 256 * 1024
_LONGEST = 1000
# What goes on without the store wakes nobody.
_LOOK = 0.25
# Of a larger answer the end is taken to be the end of its result, as the SDKs write it: to parse it
# would hold the event loop.
_LARGE = 256 * 1024
_RESULT_LAST = re.compile(
    rb'\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(?:-?\d+|"(?:[^"\\]|\\.){0,256}")\s*,'
    rb'\s*"(result|error)"\s*:\s*'
)
_ASKS = re.compile(rb'"resultType"\s*:\s*"input_required"')
_GONE = "What this call has answered is not kept any more"
_TOO_LARGE = "The tool asks for input, and its call is too large to be made again with the answer"
_UNREADABLE = "What this call has answered cannot be read"
CANCELLED = "cancelled"
"""The data of the error that ends a cancelled job's stream has it."""


class JobStatus(enum.StrEnum):
    """Where a job is."""

    WORKING = "working"
    INPUT_REQUIRED = "input_required"
    """The application has asked its client something and does not run meanwhile."""
    COMPLETED = "completed"
    """With a result, which may say that the tool has failed."""
    FAILED = "failed"
    """With a JSON-RPC error."""
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing comes after it."""
        return self not in (JobStatus.WORKING, JobStatus.INPUT_REQUIRED)


@dataclass(frozen=True, slots=True)
class JobState:
    """What is known of a job at one moment."""

    status: JobStatus
    updated_at: float
    message: str = ""
    """What its progress says, or what went wrong."""
    answer: bytes = b""
    """The result or the error, as the application wrote it."""
    last: int = 0
    """The last event of its stream that was looked at."""


async def look(context: Context, job: JobRecord) -> JobState:
    """The state of a job now. A stream that its worker has left is ended for that, unless it waits
    for its client to be run again.

    Raises:
        StoreError: the store does not answer.
    """
    record = await context.log.find(job.stream) or await unbegun.find(context, job)
    left = await _left(context, record) if record is not None else None
    if record is not None and left is not None:
        if record.request is not None:
            return JobState(JobStatus.WORKING, job.updated_at)
        record = await context.takeover.end(record, left)
    if record is None:
        return await _without_stream(context, job)
    if record.state is StreamState.OPEN:
        progress = await _progress(context, job)
        return JobState(JobStatus.WORKING, progress.at, progress.message, last=progress.last)
    return await _ended(context.log, job, record)


async def _left(context: Context, record: StreamRecord) -> PeerStatus | None:
    """What is known of a stream's worker, if that has left it. Whoever polls asks often: the store
    is asked only where there is reason to."""
    is_open = record.state is StreamState.OPEN
    is_mine = record.worker == context.member.name
    if not is_open or not (is_mine or context.member.peers.is_suspect(record.worker)):
        return None
    return await context.takeover.left(record)


class Streams(Protocol):
    """What of a log tells what has become of a job."""

    def now(self) -> float: ...
    async def find(self, stream: bytes) -> StreamRecord | None: ...
    async def answers(self, stream: bytes, after: int = 0) -> Answers: ...
    async def read(
        self, stream: bytes, after: int, max_events: int, max_bytes: int
    ) -> list[Event]: ...


async def seen(log: Streams, job: JobRecord) -> JobState:
    """The same as somebody sees it who is no worker, and changes nothing.

    Raises:
        StoreError: the store does not answer.
    """
    record = await log.find(job.stream)
    if record is None:
        return JobState(JobStatus.FAILED, job.expires_at, _GONE, _error(_GONE))
    if record.state is not StreamState.OPEN:
        return await _ended(log, job, record)
    progress = await _newest(log, job.stream, LastProgress(0, job.updated_at, ""))
    return JobState(JobStatus.WORKING, progress.at, progress.message, last=progress.last)


async def wait(context: Context, job: JobRecord, known: JobState, seconds: float) -> JobState:
    """The state of a job as soon as it is another than it was, or after so many seconds.

    Raises:
        StoreError: the store does not answer.
    """
    until = time.monotonic() + seconds
    live = context.writer.live.get(job.stream)
    subscription = None if live is not None else context.log.wakeups.subscribe(job.stream)
    try:
        while True:
            seen = live.visible if live is not None else 0
            state = await look(context, job)
            left = until - time.monotonic()
            if _differ(state, known) or state.status.is_over or left <= 0:
                return state
            if live is not None and not live.ended:
                # What was committed during the look has woken nobody.
                if live.visible == seen:
                    await live.signal.wait(left)
            elif subscription is not None:
                try:
                    async with asyncio.timeout(left):
                        await subscription.wait()
                except TimeoutError:
                    return state
            else:
                await asyncio.sleep(min(left, _LOOK))
    finally:
        if subscription is not None:
            subscription.close()


def _differ(one: JobState, other: JobState) -> bool:
    return (one.status, one.message, one.answer) != (other.status, other.message, other.answer)


async def _without_stream(context: Context, job: JobRecord) -> JobState:
    """Of a claim the stream may be to come; else it has gone."""
    is_here = job.worker == context.member.name
    if is_here or not (await context.member.peers.verify(job.worker)).gone:
        # A worker that has ended its stream has it in the store; so has one that has begun it.
        now = context.log.now()
        if job.stream in context.writer.live or now - job.updated_at < unbegun.patience(context):
            return JobState(JobStatus.WORKING, job.updated_at)
    return JobState(JobStatus.FAILED, job.expires_at, _GONE, _error(_GONE))


def _error(text: str) -> bytes:
    return json.dumps({"code": jsonrpc.INTERRUPTED, "message": text}).encode()


async def _progress(context: Context, job: JobRecord) -> LastProgress:
    """What the newest notification of progress says: each event is read once on a worker."""
    known = context.progress.get(job.stream) or LastProgress(0, job.updated_at, "")
    found = await _newest(context.log, job.stream, known)
    if found is not known:
        context.progress[job.stream] = found
    return found


async def _newest(log: Streams, stream: bytes, known: LastProgress) -> LastProgress:
    """What is known, or what events after that say."""
    last, _ = await log.answers(stream, known.last)
    if last <= known.last:
        return known
    after, message = max(known.last, last - _EVENTS), known.message
    for event in reversed(await log.read(stream, after, _EVENTS, _BYTES)):
        if event.kind is EventKind.NOISE and (told := _told(sse.data_of(event.frame))):
            message = told
            break
    return LastProgress(last, log.now(), message)


def _told(message: bytes) -> str:
    """What a notification of progress says; empty when it is none."""
    try:
        loaded = json.loads(message)
    except (ValueError, RecursionError):
        return ""
    match loaded:
        case {"method": "notifications/progress", "params": {"message": str(text)}} if text:
            return text[:_LONGEST]
        case {"method": "notifications/progress", "params": {"progress": done, **more}}:
            return f"{done} of {more['total']}" if "total" in more else f"{done}"
        case _:
            return ""


async def _ended(log: Streams, job: JobRecord, record: StreamRecord) -> JobState:
    ended = record.ended_at if record.ended_at is not None else job.updated_at
    is_kept = record.expires_at is None or record.expires_at > log.now()
    answers = await log.answers(job.stream) if is_kept else None
    if answers is None or not answers.events:
        return JobState(JobStatus.FAILED, ended, _GONE, _error(_GONE))
    kind, answer = _parts(sse.data_of(answers.events[-1].frame))
    last = record.last_sequence
    if kind == "error":
        loaded = _loaded(answer)
        message = str(loaded.get("message", ""))[:_LONGEST]
        if record.state is StreamState.FAILED and _is_cancelled(loaded):
            return JobState(JobStatus.CANCELLED, ended, message, last=last)
        return JobState(JobStatus.FAILED, ended, message, answer, last)
    if job.face is JobFace.EXTENSION and _asks(answer):
        if job.request is None:
            return JobState(JobStatus.FAILED, ended, _TOO_LARGE, _error(_TOO_LARGE), last)
        return JobState(JobStatus.INPUT_REQUIRED, ended, "", answer, last)
    return JobState(JobStatus.COMPLETED, ended, "", answer, last)


def asks(message: bytes) -> bool:
    """Whether a response asks its client something."""
    kind, answer = _parts(message)
    return kind == "result" and _asks(answer)


def _asks(result: bytes) -> bool:
    is_likely = _ASKS.search(result) is not None
    return is_likely and _loaded(result).get("resultType") == "input_required"


def _is_cancelled(error: dict[str, Any]) -> bool:
    data = error.get("data")
    return isinstance(data, dict) and data.get(CANCELLED) is True


def _parts(message: bytes) -> tuple[str, bytes]:
    """Whether a response is a result or an error, and that as it is written."""
    match = _RESULT_LAST.match(message)
    if match is not None and len(message) > _LARGE:
        return match[1].decode(), message[match.end() :].rstrip()[:-1]
    for name in ("result", "error"):
        if (found := jsonrpc.member(message, name)) is not None:
            return name, found
    return "error", _error(_UNREADABLE)


def _loaded(text: bytes) -> dict[str, Any]:
    loaded = json.loads(text)
    return loaded if isinstance(loaded, dict) else {}
