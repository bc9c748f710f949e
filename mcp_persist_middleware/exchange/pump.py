"""One request to the application, run in a task of its own, so that no client can end it."""

import asyncio
import enum
import json
import logging
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope, Send

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import EventTooLargeError
from mcp_persist_middleware.exchange import identity
from mcp_persist_middleware.exchange.body import Body
from mcp_persist_middleware.exchange.context import Context
from mcp_persist_middleware.exchange.late import LateAnswer
from mcp_persist_middleware.exchange.turns import Turns
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import (
    Ending,
    EventKind,
    Owner,
    StreamKind,
    StreamRecord,
    StreamState,
)
from mcp_persist_middleware.protocol import classify, event_id, headers, jsonrpc, sse

logger = logging.getLogger(__name__)

# An application that was told that its client has left, and goes on, is cancelled after this.
_LAST_WORD_SECONDS = 30.0
_LARGE = 512 * 1024


class State(enum.Enum):
    """Where the answer of the application goes."""

    HOLDING = "holding"
    """It has not begun."""
    PASSING = "passing"
    """To the client as it is: it is not an event stream."""
    STREAMING = "streaming"
    """To the log."""
    COLLECTING = "collecting"
    """To the log as one event: the stream was opened before it began."""
    DROPPING = "dropping"
    """Nowhere: its stream is complete, or its client left before it held an id."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream that answers a request, and the head to begin it with."""

    stream: LiveStream
    head: list[tuple[bytes, bytes]]


class Exchange:
    """Runs the application for one request and logs the event stream that it answers with.

    `opened` resolves to the stream, or to None when the answer is not ours; it raises what the
    application raised before its answer began.
    """

    def __init__(
        self, context: Context, app: ASGIApp, scope: Scope, request: classify.Request, send: Send
    ) -> None:
        self._context = context
        self._app = app
        self.request = request
        self.scope: Scope = {
            **scope,
            "headers": headers.without(scope["headers"], b"accept-encoding", headers.LAST_EVENT_ID),
        }
        self.path = path_of(scope)
        self.reissue_key: tuple[str, bytes] | None = None
        """By whom and with what content a 2026-07-28 request was made, if that is known."""
        if request.call is not None and request.call.fingerprint:
            found = identity.credential(context, scope)
            self.reissue_key = (found, request.call.fingerprint) if found else None
        self._send_to_client = send
        self._messages: list[Message] = []
        self._gone = asyncio.Event()
        self._parser = sse.FrameParser(context.settings.max_event_bytes)
        self._late: LateAnswer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._unanswered = jsonrpc.pending(request.call.request_ids if request.call else ())
        self._passed = 0
        self.body_taken_at: float | None = None
        self.state = State.HOLDING
        self.stream: LiveStream | None = None
        self.turns = Turns()
        """The connections to a GET stream."""
        self.opened: asyncio.Future[Opened | None] = asyncio.get_running_loop().create_future()

    @property
    def kind(self) -> StreamKind:
        """Which request made the stream."""
        return StreamKind.POST if self.request.kind is classify.Kind.EXCHANGE else StreamKind.GET

    def start(self, body: Body) -> None:
        """Run the application in the background, in a copy of the current context."""
        self._messages = body.messages
        self._task = asyncio.create_task(self._run(), name="mcp-persist-pump")
        self._context.tasks.add(self._task)
        self._task.add_done_callback(self._context.tasks.discard)

    def cancel(self) -> None:
        """Cancel the application, as the server would have without us."""
        if self._task is not None:
            self._task.cancel()

    def join_session(self) -> None:
        """Let later GET requests of the session find this stream."""
        key = (self.path, self.request.session)
        self._context.session_streams[key] = self
        assert self._task is not None
        self._task.add_done_callback(lambda _: self._leave_session(key))

    def _leave_session(self, key: tuple[str, str]) -> None:
        if self._context.session_streams.get(key) is self:
            del self._context.session_streams[key]

    async def finished(self) -> None:
        """Wait for the application; raises what it raised."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        try:
            await self._app(self.scope, self._receive, self._send)
        except Exception as error:
            if self.opened.done() and self.state is not State.PASSING:
                logger.exception("The application raised after its answer had begun")
            elif self.state is State.PASSING:
                raise
            else:
                self.opened.set_exception(error)
        finally:
            if not self.opened.done():
                self.opened.set_result(None)
            await self._finish("the application ended the request without an answer")
            self._cancel_timer()
            self._context.detached.pop(self, None)
            self.scope = {}

    # What the application sees.

    async def _receive(self) -> Message:
        if self._messages:
            message = self._messages.pop(0)
            if not self._messages:
                self.body_taken_at = time.monotonic()
            return message
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        match self.state, message["type"]:
            case State.HOLDING, "http.response.start":
                await self._begin(message)
            case State.PASSING, _:
                self._watch_size(message)
                await self._send_to_client(message)
            case ((State.STREAMING | State.COLLECTING), "http.response.start"):
                if not headers.is_event_stream(message["status"], message["headers"]):
                    self.state = State.COLLECTING
                    self._late = LateAnswer(message["status"], message["headers"])
            case State.STREAMING, "http.response.body":
                await self._log(message.get("body", b""))
                if not message.get("more_body", False):
                    await self._finish("the application closed the stream without an answer")
            case State.COLLECTING, "http.response.body" if self._late is not None:
                self._late.add(message.get("body", b""))
                if not message.get("more_body", False):
                    await self._log_late(self._late)
            case _:
                pass

    async def _begin(self, message: Message) -> None:
        status, raw = message["status"], list(message.get("headers", []))
        self._learn(status, raw)
        if headers.is_event_stream(status, raw):
            if self._gone_unseen():
                self.state = State.DROPPING
                return
            self.open(raw)
        else:
            self.state = State.PASSING
            if not self.opened.done():
                self.opened.set_result(None)
            await self._send_to_client(message)

    def _gone_unseen(self) -> bool:
        # The client left before it could hold an id: nobody can ever ask for this stream.
        return self.opened.done()

    def open(self, raw: list[tuple[bytes, bytes]]) -> None:
        """Open the stream that answers this request."""
        self.state = State.STREAMING
        call = self.request.call
        request_id = call.request_id if call is not None else None
        session = headers.get(raw, headers.SESSION_ID) or self.request.session
        stream_id = event_id.new_stream_id()
        record = StreamRecord(
            id=stream_id,
            kind=self.kind,
            owner=Owner(
                self._context.settings.namespace,
                self.path,
                session,
                identity.principal(self._context, self.scope),
            ),
            epoch=1,
            state=StreamState.OPEN,
            last_sequence=0,
            worker=self._context.worker,
            created_at=time.time(),
            ended_at=None,
            expires_at=None,
            request_ids=json.dumps(list(call.request_ids) if call is not None else []),
            trace=telemetry.traceparent(),
        )
        ids = event_id.EventIds.of(stream_id, self.kind, request_id)
        self.stream = LiveStream(record, ids, self._context.limits)
        self.stream.on_readers = self._readers_changed
        if self._context.settings.on_store_failure == "refuse":
            self.stream.on_lost = self._refuse
        self._context.writer.open(self.stream)
        if not self.opened.done():
            self.opened.set_result(Opened(self.stream, raw))

    async def _log(self, chunk: bytes) -> None:
        stream = self.stream
        if stream is None or stream.ending is not None:
            return
        try:
            frames = self._parser.feed(chunk)
        except EventTooLargeError as error:
            logger.error("%s", error)
            await self._finish(str(error))
            self.leave()
            return
        await self._append([(jsonrpc.scan(frame.data), frame.raw) for frame in frames])

    async def _append(self, events: list[tuple[tuple[EventKind, tuple[str, ...]], bytes]]) -> None:
        stream = self.stream
        if stream is None or not events:
            return
        was_waiting = bool(self._unanswered)
        for (_, answered), _frame in events:
            self._unanswered.difference_update(answered)
        batch = [(kind, frame) for (kind, _), frame in events]
        if was_waiting and not self._unanswered:
            # The end rides in the same commit as the answer.
            self._writer_end(stream, StreamState.COMPLETE, batch)
            self._note_large(sum(len(frame) for _, frame in batch))
        else:
            await self._context.writer.append(stream, batch)

    def _writer_end(
        self, stream: LiveStream, state: StreamState, last: list[tuple[EventKind, bytes]]
    ) -> None:
        now, settings = time.time(), self._context.settings
        for kind, frame in last:
            stream.add(kind, frame)
        owner = stream.record.owner
        known = owner.session or owner.principal
        ttl = settings.ttl if known else min(settings.ttl, settings.anonymous_ttl)
        self._context.writer.end(stream, Ending(state, stream.last, now, now + ttl))

    async def _log_late(self, late: LateAnswer) -> None:
        """The answer came after the stream had been opened for it, and is not a stream."""
        call = self.request.call
        message = late.as_message(call.request_id if call is not None else None)
        if late.status < 300:
            self._learn(late.status, late.headers)
        await self._append([(jsonrpc.scan(message), sse.event(message))])

    async def _finish(self, why: str) -> None:
        """End the stream; every request that has no answer gets an error."""
        stream = self.stream
        if stream is None or stream.ending is not None:
            return
        if self.state is State.COLLECTING and self._late is not None and not self._late.used:
            await self._log_late(self._late)
        if stream.ending is None and self._unanswered:
            telemetry.interrupted.add(1)
            if self._gone.is_set():
                why = "the client left and did not come back in time; the request was cancelled"
            data = {"stream": stream.ids.head.decode()[:22], "events": stream.last}
            errors = [
                jsonrpc.error(json.loads(key), f"Interrupted: {why}", data, jsonrpc.INTERRUPTED)
                for key in sorted(self._unanswered)
            ]
            self._unanswered.clear()
            events = [(EventKind.RESPONSE, sse.event(error)) for error in errors]
            self._writer_end(stream, StreamState.FAILED, events)
        elif stream.ending is None:
            self._writer_end(stream, StreamState.COMPLETE, [])

    def _refuse(self) -> None:
        """The store is gone and the policy is to say so: an error ends the stream."""
        stream = self.stream
        if stream is not None and stream.ending is None:
            data = {"stream": stream.ids.head.decode()[:22], "events": stream.last}
            for key in sorted(self._unanswered):
                error = jsonrpc.error(
                    json.loads(key), "The store is unavailable", data, jsonrpc.INTERRUPTED
                )
                stream.add(EventKind.RESPONSE, sse.event(error))
            self._unanswered.clear()
            self._writer_end(stream, StreamState.FAILED, [])
            self.leave()

    # Who is listening.

    def leave(self) -> None:
        """Tell the application that its client has left; it has half a minute to end."""
        if not self._gone.is_set():
            self._gone.set()
            self._cancel_timer()
            self._timer = asyncio.get_running_loop().call_later(_LAST_WORD_SECONDS, self.cancel)

    def abandon(self) -> None:
        """The client left before it held an id."""
        if not self.opened.done():
            self.opened.set_result(None)
        if self.request.era.disconnect_cancels or self.kind is StreamKind.GET:
            self.leave()
        else:
            self._detach(self._context.settings.detach_seconds)

    def _readers_changed(self) -> None:
        if self.stream is None or self.stream.readers:
            if self._context.detached.pop(self, self) is None:
                telemetry.detached.add(-1)
            self._cancel_timer()
        elif self._task is not None and not self._task.done():
            cancels = self.request.era.disconnect_cancels
            settings = self._context.settings
            self._detach(settings.disconnect_grace if cancels else settings.detach_seconds)

    def _detach(self, seconds: float) -> None:
        if self._gone.is_set():
            return
        self._cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.leave)
        if self not in self._context.detached:
            telemetry.detached.add(1)
        self._context.detached[self] = None
        if len(self._context.detached) > self._context.settings.max_detached:
            oldest, _ = self._context.detached.popitem(last=False)
            telemetry.detached.add(-1)
            oldest.leave()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What the answers teach.

    def _learn(self, status: int, raw: headers.RawHeaders) -> None:
        if not 200 <= status < 300:
            return
        memory = self._context.memory
        memory.paths.set(self.path, None)
        found = identity.credential(self._context, self.scope)
        if found:
            memory.trusted.set(found, time.monotonic())
        if not self.request.era.disconnect_cancels:
            memory.answers_json.set(self.path, headers.media_type(raw) == b"application/json")

    def _watch_size(self, message: Message) -> None:
        self._passed += len(message.get("body", b""))
        if self._passed > _LARGE:
            self._note_large(self._passed)

    def _note_large(self, size: int) -> None:
        if size > _LARGE and self.request.call is not None:
            self._context.memory.large_tools.set((self.path, self.request.call.name), None)


def path_of(scope: Scope) -> str:
    """The full path of a request, mounts included (Starlette keeps the mount in both)."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path if path.startswith(root) else root + path
