"""What the application sends becomes the events of one stream, down to its end."""

import json
from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import (
    EARLY,
    Ending,
    EventKind,
    ExchangeOutcome,
    Owner,
    Place,
    StreamKind,
    StreamRecord,
    StreamState,
)
from mcp_persist_middleware.protocol import classify, event_id, headers, jsonrpc, sse
from mcp_persist_middleware.streams import identity, session_stream
from mcp_persist_middleware.streams.buffered_answer import BufferedAnswer
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.passed_answer import PassedAnswer

OnEnd = Callable[[bytes, ExchangeOutcome, Mapping[str, object]], None]
"""Takes the application's answer; or none, and then how it ended and what its error says more."""

# A comment within an event: clients ignore it, and whoever looks at the wire sees it.
_RUN_AGAIN = b": run again" + sse.CRLF


class Recorder:
    """Writes one stream. It is complete with the answer to each request, not with the end of the
    application's body; every request without an answer gets an error.
    """

    def __init__(
        self, context: Context, request: classify.Request, place: Place, scope: Scope
    ) -> None:
        self._context = context
        self._request = request
        self._place = place
        self._parser = sse.FrameParser(context.settings.max_event_bytes)
        self._unanswered = jsonrpc.pending(request.call.request_ids if request.call else ())
        self._mark = b""
        self.report = context.reports.begin(request, place, scope)
        self.stream: LiveStream | None = None
        self.is_asked_here = False
        """Whether the connection that has asked is this worker's: the answer may reach it at
        once."""
        self.stream_id: bytes | None = None
        """The stream's id, where somebody knows it already."""
        self.on_end: OnEnd | None = None
        """Told once how the stream ends."""
        self.kept = 0.0
        """The stream is kept for so long (seconds) after its end, at least."""

    @property
    def kind(self) -> StreamKind:
        """Which request makes the stream."""
        is_post = self._request.kind is classify.RequestKind.EXCHANGE
        return StreamKind.POST if is_post else StreamKind.GET

    @property
    def is_ended(self) -> bool:
        """Whether the stream takes nothing more."""
        stream = self.stream
        return stream is not None and (stream.ended or stream.ending is not None)

    def go_on(self, stream: LiveStream) -> None:
        """Write the rest of a stream whose request is run again; its next event says so."""
        self.stream = stream
        self.report.opened(stream)
        self._mark = _RUN_AGAIN

    def open(
        self,
        scope: Scope,
        credential: str,
        head: headers.RawHeaders,
        kept: bytes | None,
        *,
        early: bool,
    ) -> LiveStream:
        """Begin the stream; `scope` is the one that the application's authentication has had (of
        an `early` one that may have to come), `credential` what in it may name its caller, `kept`
        what it takes to run the request again."""
        context, call = self._context, self._request.call
        stream_id = self.stream_id or event_id.new_stream_id(context.log.now())
        named = identity.early if early else identity.principal
        owner = self._owner(head, named(context, scope, credential))
        record = StreamRecord(
            id=stream_id,
            kind=self.kind,
            owner=owner,
            epoch=1,
            state=StreamState.OPEN,
            last_sequence=0,
            worker=context.member.name,
            created_at=context.log.now(),
            ended_at=None,
            expires_at=None,
            request_ids=json.dumps(list(call.request_ids) if call is not None else []),
            trace=self.report.trace,
            request=kept,
        )
        request_id = call.request_id if call is not None else None
        ids = event_id.EventIds.of(stream_id, self.kind, request_id)
        self.stream = LiveStream(record, ids, context.limits)
        self.report.opened(self.stream)
        context.writer.open(self.stream)
        return self.stream

    def passes(
        self, scope: Scope, credential: str, status: int, head: headers.RawHeaders
    ) -> PassedAnswer:
        """The answer is no stream, and goes to the client as it is."""
        context, call, report = self._context, self._request.call, self.report
        report.begun(status, head, lambda: identity.principal(context, scope, credential))
        return PassedAnswer(context.memory, self._place, call, head, report)

    async def open_for_session(
        self, app: ASGIApp, scope: Scope, credential: str, head: headers.RawHeaders
    ) -> LiveStream:
        """Go on with the stream of the request's session, or begin it."""
        owner = self._owner(head, identity.principal(self._context, scope, credential))
        caller = Caller(self._context, app, scope, owner)
        self.stream = await session_stream.next_epoch(self._context, caller)
        if self.stream is None:
            self.stream = self.open(scope, credential, head, None, early=False)
            # Where the session goes next, it goes on with what is in the store.
            self._context.writer.hurry(self.stream)
        return self.stream

    def _owner(self, head: headers.RawHeaders, principal: str) -> Owner:
        session = headers.get(head, headers.SESSION_ID) or self._request.session
        return Owner(*self._place, session, principal)

    def settle(self, scope: Scope) -> None:
        """The application has answered: whose a stream is that began early is known now."""
        stream = self.stream
        if stream is not None and stream.record.owner.principal.startswith(EARLY):
            stream.settle(identity.principal(self._context, scope))

    async def log(self, chunk: bytes) -> None:
        """Log the events that are complete with this chunk; waits while too many wait. Comments
        behind them are passed on to whoever listens now.

        Raises:
            EventTooLargeError: an event outgrew `max_event_bytes`.
        """
        if not self.is_ended:
            await self._append(self._parser.feed(chunk))
        comments = self._parser.comments()
        if comments and self.stream is not None and not self.is_ended:
            self.stream.say(comments)

    async def log_late(self, late: BufferedAnswer) -> None:
        """Log an answer that is not an event stream, as the one event that ends this one."""
        call = self._request.call
        message = late.as_message(call.request_id if call is not None else None)
        if not self.is_ended:
            await self._append([sse.Frame(sse.event(message), message)])

    async def _append(self, frames: list[sse.Frame]) -> None:
        stream = self.stream
        if stream is None or not frames:
            return
        was_waiting = bool(self._unanswered)
        events = []
        for frame in frames:
            kind, answered = jsonrpc.scan(frame.data)
            if answered:
                self._unanswered.difference_update(answered)
                self.report.answered(frame.data)
            events.append((kind, self._marked(frame.raw)))
        self.report.logged(frames)
        if was_waiting and not self._unanswered:
            # The end rides in the same commit as the answer.
            self._end(stream, StreamState.COMPLETE, events)
            self._say_end(frames[-1].data, ExchangeOutcome.OK, {})
            self._learn(frames[-1])
            self.report.complete()
        else:
            await self._context.writer.append(stream, events)

    def _marked(self, frame: bytes) -> bytes:
        mark, self._mark = self._mark, b""
        return mark + frame

    def _learn(self, answer: sse.Frame) -> None:
        memory, call = self._context.memory, self._request.call
        memory.learn_body(self._place, call, answer.data)
        ended = b'"result"' in answer.data
        memory.learn_size(self._place, call, len(answer.raw), ended=ended)

    def finish(
        self,
        why: str,
        outcome: ExchangeOutcome = ExchangeOutcome.INTERRUPTED,
        /,
        **more: object,
    ) -> None:
        """End the stream, if it has not ended; what is unanswered is answered with an error, which
        has `more` data."""
        stream = self.stream
        if stream is not None and not self._context.holds_lease:
            # Another worker may have ended it by now, and else one will.
            self.report.leave()
        self.report.broken_off(outcome)
        if stream is None or self.is_ended:
            return
        if not self._unanswered:
            self._end(stream, StreamState.COMPLETE, [])
            return
        if self._context.holds_lease:
            self._say_end(b"", outcome, more)
        telemetry.interrupted.add(1, {"namespace": stream.record.owner.namespace})
        data = {"stream": stream.ids.name, "events": stream.last, **more}
        errors = [
            jsonrpc.error(json.loads(key), f"Interrupted: {why}", data, jsonrpc.INTERRUPTED)
            for key in sorted(self._unanswered)
        ]
        self._unanswered.clear()
        events = [(EventKind.RESPONSE, self._marked(sse.event(error))) for error in errors]
        self._end(stream, StreamState.FAILED, events)

    def _say_end(self, answer: bytes, outcome: ExchangeOutcome, more: Mapping[str, object]) -> None:
        told, self.on_end = self.on_end, None
        if told is not None:
            told(answer, outcome, more)

    def _end(
        self, stream: LiveStream, state: StreamState, last: list[tuple[EventKind, bytes]]
    ) -> None:
        for kind, frame in last:
            stream.add(kind, frame)
        settings, now = self._context.settings, self._context.log.now()
        ttl = max(self.kept, settings.kept_for(stream.record.owner))
        is_told = self.is_asked_here and self._context.tells_ahead()
        self._context.writer.end(
            stream, Ending(state, stream.last, now, now + ttl), is_told=is_told
        )
