"""What is told of the calls of workers that are gone, by whoever ended their streams. What was
called is known where the request is kept, or it was a job; that is asked beside all else."""

from collections import deque
from typing import NamedTuple

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import (
    ExchangeOutcome,
    FinishedExchange,
    JobEnd,
    JobFace,
    JobRecord,
    StreamKind,
    StreamRecord,
)
from mcp_persist_middleware.protocol import headers, jsonrpc
from mcp_persist_middleware.streams.exchange_report import ExchangeReports
from mcp_persist_middleware.streams.stored_request import StoredRequest
from mcp_persist_middleware.supervision import Supervisor

# Of more at once the oldest are not told of.
_TOGETHER, _MOST = 256, 16_384
_REVISIONS = {JobFace.EXTENSION: "2026-07-28", JobFace.CORE: "2025-11-25"}


class Called(NamedTuple):
    """What was called, as far as that is known."""

    method: str = ""
    name: str = ""
    version: str = ""


class LeftBehind:
    """The streams that were ended here for their workers.

    Args:
        worker: that tells of them.
    """

    def __init__(
        self, log: EventLog, reports: ExchangeReports, background: Supervisor, worker: str
    ) -> None:
        self._log = log
        self._reports = reports
        self._background = background
        self._worker = worker
        self._waiting: deque[StreamRecord] = deque(maxlen=_MOST)
        self._is_asking = False

    def note(self, record: StreamRecord) -> None:
        """A stream was ended here with an error. Nobody waits for what is told of it."""
        if record.kind is not StreamKind.POST or not self._reports.is_heard:
            return
        self._waiting.append(record)
        if not self._is_asking:
            self._is_asking = True
            self._background.spawn(self._ask(), "mcp-persist-left-behind")

    async def _ask(self) -> None:
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))]
                jobs: dict[bytes, JobRecord] = {}
                try:
                    jobs = await self._jobs([record.id for record in some])
                finally:
                    for record in some:
                        self._tell(record, jobs.get(record.id))
        finally:
            self._is_asking = False

    async def _jobs(self, streams: list[bytes]) -> dict[bytes, JobRecord]:
        if self._log.jobs is None:
            return {}
        try:
            return {job.stream: job for job in await self._log.jobs.of_streams(streams)}
        except StoreError:
            # Then they are told as calls of which less is known.
            return {}

    def _tell(self, record: StreamRecord, job: JobRecord | None) -> None:
        if job is not None:
            outcome = str(JobEnd.WORKER_DIED)
            telemetry.jobs_ended.add(1, {"face": str(job.face), "outcome": outcome})
        began, error_type = record.created_at, str(jsonrpc.INTERRUPTED)
        lasted = max(0.0, (record.ended_at or began) - began)
        said = (*called(record, job), ExchangeOutcome.INTERRUPTED, error_type)
        finished = FinishedExchange(
            *said, began, None, lasted, 0, 0, record.owner, record.id, record.trace
        )
        telemetry.tell_interrupted(record, finished, self._worker)
        self._reports.tell(finished)


def called(record: StreamRecord, job: JobRecord | None) -> Called:
    """What was called on a stream."""
    if record.request is not None:
        try:
            kept = StoredRequest.unpack(record.request)
        except ValueError:
            return Called()
        call = jsonrpc.parse(kept.body)
        version = headers.get(kept.headers, headers.PROTOCOL_VERSION) or ""
        return Called() if call is None else Called(call.method, call.name, version)
    if job is not None:
        return Called("tools/call", job.tool, _REVISIONS.get(job.face, ""))
    return Called()
