"""What becomes of an exchange, told once when it is over: to metrics, to a journal, to whoever
listens. An exchange that another worker had run is told by the home, one whose worker is gone by
whoever ends its stream: see `LeftBehind`."""

import dataclasses
import time
from collections.abc import Awaitable, Callable, Sequence

from starlette.types import Scope

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import (
    ExchangeOutcome,
    FinishedExchange,
    Owner,
    Place,
)
from mcp_persist_middleware.protocol import answers, classify, headers, jsonrpc
from mcp_persist_middleware.protocol.sse import Frame
from mcp_persist_middleware.supervision import say

Listener = Callable[[FinishedExchange], None]
"""Is told at the end of an exchange, in its task: it does no more than take note."""

ParamsOf = Callable[[bytes, str], bytes]
"""What of a request's body, of a call of this tool, may be kept: JSON, or nothing."""


class ExchangeReports:
    """Who is told. Where that is nobody, and nobody measures, nothing is looked at either.

    Args:
        worker: that runs the exchanges.
    """

    def __init__(self, worker: str = "") -> None:
        self._worker = worker
        self._listeners: list[Listener] = []
        self._params: ParamsOf | None = None
        self._forget: Callable[[Whose], Awaitable[None]] | None = None

    def listen(self, listener: Listener) -> None:
        """Tell this one, too, of exchanges that begin from now on."""
        self._listeners.append(listener)

    def keep(
        self,
        listener: Listener,
        params: ParamsOf | None,
        forget: Callable[[Whose], Awaitable[None]],
    ) -> None:
        """Tell this one, which writes it down: it hears what it may have of each request's
        parameters, and whom it is to forget."""
        self.listen(listener)
        self._params, self._forget = params, forget

    async def forget(self, whose: Whose) -> None:
        """What goes on now and belongs to somebody is not written down."""
        if self._forget is not None:
            await self._forget(whose)

    @property
    def is_heard(self) -> bool:
        """Whether there is anybody to tell, or who measures."""
        return bool(self._listeners) or telemetry.is_there()

    def begin(self, request: classify.Request, place: Place, scope: Scope) -> "ExchangeReport":
        """The report of an exchange that begins. A session's own stream is none."""
        if request.call is None or not self.is_heard:
            return UNREPORTED
        return _Reported(self.tell, self._worker, request, place, scope, self._params)

    def tell(self, finished: FinishedExchange) -> None:
        """All of them; one that raises keeps no other from hearing, and no answer from leaving."""
        for listener in self._listeners:
            try:
                listener(finished)
            except Exception as error:  # noqa: BLE001
                say("What is told of an exchange", error)


class ExchangeReport:
    """One exchange that nobody wants to know of."""

    @property
    def trace(self) -> str:
        """The `traceparent` to be kept with its stream."""
        return telemetry.traceparent()

    def enter(self) -> None:
        """The task begins that runs it."""

    def received(self, body: Body) -> None:
        """This is its request."""

    def opened(self, stream: LiveStream) -> None:
        """It is answered with this stream."""

    def begun(self, status: int, raw: headers.RawHeaders, principal: Callable[[], str]) -> None:
        """It is answered with something else, for this caller."""

    def logged(self, frames: Sequence[Frame]) -> None:
        """These events are on their way to the log."""

    def passed(self, body: bytes, size: int) -> None:
        """This part of an answer, of so many bytes on the wire, is on its way to the client."""

    def answered(self, message: bytes) -> None:
        """This is an answer."""

    def raised(self, error: BaseException) -> None:
        """The application raised before its answer was complete."""

    def complete(self) -> None:
        """Every answer is there."""

    def broken_off(self, outcome: ExchangeOutcome) -> None:
        """It is over without an answer, if it is not complete."""

    def read(self, readers: int) -> None:
        """So many read its answer here by now."""

    def leave(self) -> None:
        """Whoever ends its stream tells what became of it."""


UNREPORTED = ExchangeReport()


class _Reported(ExchangeReport):
    def __init__(
        self,
        tell: Listener,
        worker: str,
        request: classify.Request,
        place: Place,
        scope: Scope,
        params: ParamsOf | None,
    ) -> None:
        assert request.call is not None
        self._params_of, self._params = params, b""
        self._tell: Listener | None = tell
        self._call = call = request.call
        said = call.version if call.is_initialize else None
        self._version = said or headers.get(scope["headers"], headers.PROTOCOL_VERSION) or ""
        self._owner = Owner(*place, request.session, "")
        self._stream: LiveStream | None = None
        self._began_at, self._began = time.time(), time.monotonic()
        self._first_after: float | None = None
        self._bytes_in = self._bytes_out = 0
        self._verdict: answers.AnswerOutcome | None = None
        self._error = ""
        self._status = 200
        self._body = bytearray()
        operation = telemetry.Operation(
            call.method,
            call.name,
            self._version,
            call.request_id,
            call.trace,
            scope.get("http_version", "1.1"),
        )
        self._span = telemetry.OperationSpan(operation, worker)

    @property
    def trace(self) -> str:
        return self._span.traceparent

    def enter(self) -> None:
        self._span.enter()

    def received(self, body: Body) -> None:
        self._bytes_in = body.size
        if self._params_of is not None:
            self._params = self._params_of(body.content, self._call.name)

    def opened(self, stream: LiveStream) -> None:
        self._stream = stream

    def begun(self, status: int, raw: headers.RawHeaders, principal: Callable[[], str]) -> None:
        self._status = status
        session = headers.get(raw, headers.SESSION_ID) or self._owner.session
        self._owner = dataclasses.replace(self._owner, session=session, principal=principal())

    def logged(self, frames: Sequence[Frame]) -> None:
        self._sent(sum([len(frame.raw) for frame in frames]))

    def passed(self, body: bytes, size: int) -> None:
        self._sent(size)
        self._body += body[: answers.MOST_PARSED + 1 - len(self._body)]

    def _sent(self, size: int) -> None:
        if self._first_after is None:
            self._first_after = time.monotonic() - self._began
        self._bytes_out += size

    def answered(self, message: bytes) -> None:
        if self._verdict is None or self._verdict == answers.OK:
            self._verdict = answers.judged(message)

    def raised(self, error: BaseException) -> None:
        self._error = type(error).__qualname__

    def complete(self) -> None:
        if self._verdict is None:
            self._verdict = answers.judged(bytes(self._body))
            if self._verdict == answers.OK and not 200 <= self._status < 300:
                self._verdict = ExchangeOutcome.ERROR, str(self._status)
        self._end(*self._verdict)

    def broken_off(self, outcome: ExchangeOutcome) -> None:
        error_type = self._error or outcome.value
        if outcome is ExchangeOutcome.INTERRUPTED:
            if self._stream is not None:
                # What its client gets.
                error_type = self._error or str(jsonrpc.INTERRUPTED)
            elif self._error:
                outcome = ExchangeOutcome.ERROR
        self._end(outcome, error_type)

    def read(self, readers: int) -> None:
        if self._tell is not None:
            self._span.note("mcp_persist.read" if readers else "mcp_persist.unread")

    def leave(self) -> None:
        if self._tell is not None:
            self._tell = None
            self._span.abandon()

    def _end(self, outcome: ExchangeOutcome, error_type: str) -> None:
        tell, self._tell = self._tell, None
        if tell is None:
            return
        stream, call = self._stream, self._call
        finished = FinishedExchange(
            call.method,
            call.name,
            self._version,
            outcome,
            error_type,
            self._began_at,
            self._first_after,
            time.monotonic() - self._began,
            self._bytes_in,
            self._bytes_out,
            self._owner if stream is None else stream.record.owner,
            None if stream is None else stream.record.id,
            self._span.traceparent,
            # The first of them is who asks.
            0 if stream is None else max(0, stream.attached - 1),
            self._params,
        )
        self._span.end(finished)
        tell(finished)
