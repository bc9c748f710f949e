"""How jobs end, counted once: where they run, or by whoever ends what has left them."""

from collections.abc import Mapping

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.model import ExchangeOutcome, JobEnd, JobFace, JobRecord
from mcp_persist_middleware.protocol import answers
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.tasks import state

_ANSWERED = {
    ExchangeOutcome.ERROR: JobEnd.APPLICATION_ERROR,
    ExchangeOutcome.CANCELLED: JobEnd.CANCELLED,
}


def count(job: JobRecord, end: JobEnd) -> None:
    """A job is over."""
    telemetry.jobs_ended.add(1, {"face": str(job.face), "outcome": str(end)})


class EndOfJob:
    """Hears how an exchange ends that is a job, or is about to become one."""

    def __init__(self, context: Context, running: Exchange, job: JobRecord) -> None:
        self._context = context
        self._recorder = running.recorder
        self._job = job
        self._end: JobEnd | None = None
        self._is_job = False
        # A call may have a key, and become a task.
        self._before = running.recorder.on_end
        running.recorder.on_end = self._told

    @classmethod
    def count(cls, context: Context, running: Exchange, job: JobRecord) -> None:
        """Of a job that is in the store."""
        cls(context, running, job).confirm()

    def confirm(self) -> None:
        """The job is in the store. Its exchange may have ended meanwhile."""
        self._is_job = True
        if self._end is not None:
            count(self._job, self._end)

    def _told(self, answer: bytes, outcome: ExchangeOutcome, more: Mapping[str, object]) -> None:
        self._end = self._answered(answer) if answer else self._unanswered(outcome, more)
        if self._is_job and self._end is not None:
            count(self._job, self._end)
        if self._before is not None:
            self._before(answer, outcome, more)

    def _answered(self, message: bytes) -> JobEnd | None:
        """None of an answer that asks its client something: the job goes on with what that says."""
        if self._job.face is JobFace.EXTENSION and state.asks(message):
            return None if self._job.request is not None else JobEnd.APPLICATION_ERROR
        return _ANSWERED.get(answers.judged(message)[0], JobEnd.COMPLETED)

    def _unanswered(self, outcome: ExchangeOutcome, more: Mapping[str, object]) -> JobEnd:
        context, stream = self._context, self._recorder.stream
        if state.CANCELLED in more:
            return JobEnd.CANCELLED
        if outcome is ExchangeOutcome.CANCELLED or context.log.now() >= self._job.expires_at:
            return JobEnd.EXPIRED
        if context.draining:
            return JobEnd.WORKER_STOPPED
        is_without = stream is not None and stream.degraded
        return JobEnd.STORE if is_without else JobEnd.APPLICATION_ERROR
