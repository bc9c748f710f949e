"""One request to the application, run in a task of its own, so that no client can end it."""

import asyncio
import functools
import time

from starlette.types import ASGIApp, Message, Scope, Send

from mcp_persist_middleware import rarely
from mcp_persist_middleware.asgi import account_of, place_of
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import nowhere
from mcp_persist_middleware.errors import EventTooLargeError
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import ExchangeOutcome, StreamKind
from mcp_persist_middleware.protocol import classify, headers
from mcp_persist_middleware.streams import exit_guard, identity
from mcp_persist_middleware.streams.buffered_answer import BufferedAnswer
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.disconnect import DisconnectTimer
from mcp_persist_middleware.streams.drain import INTERRUPTED
from mcp_persist_middleware.streams.handoff import Handoff
from mcp_persist_middleware.streams.opening import Opening
from mcp_persist_middleware.streams.passed_answer import PassedAnswer
from mcp_persist_middleware.streams.recorder import Recorder
from mcp_persist_middleware.streams.state import ExchangeState, Opened
from mcp_persist_middleware.streams.stored_request import StoredRequest
from mcp_persist_middleware.streams.unpack import hand_in

logger = rarely.logger(__name__)

_CLIENT_LEFT = "the client left and did not come back in time; the request was cancelled"
_NO_ANSWER = "the application ended the request without an answer"


class Exchange:
    """Runs the application for one request and logs the event stream that it answers with.
    `opening` tells what answers.
    """

    def __init__(
        self, context: Context, app: ASGIApp, scope: Scope, request: classify.Request, send: Send
    ) -> None:
        self._context = context
        self.app = app
        self.request = request
        self.scope: Scope = hand_in(scope)
        self.place = place_of(scope)
        self.state = ExchangeState.HOLDING
        self.body_taken_at: float | None = None
        self.opening = Opening()
        self.recorder = Recorder(context, request, self.place, self.scope)
        self._send_to_client: Send = send
        self._messages: list[Message] = []
        self.handoff: Handoff | None = None
        """What answers in the place of an answer that takes too long."""
        self.head: headers.RawHeaders | None = None
        """What the answer begins with at once, where all of it is logged, whatever it is."""
        cancels, report = request.era.disconnect_cancels, self.recorder.report
        self._disconnect = DisconnectTimer(context, self, report, self.cancel, cancels=cancels)
        self._late: BufferedAnswer | None = None
        self._passed: PassedAnswer | None = None
        self._kept: bytes | None = None
        self.only_asks = False  # It may be run again, whatever the settings say.
        self._task: asyncio.Task[None] | None = None

    @property
    def kind(self) -> StreamKind:
        """Which request this is."""
        return self.recorder.kind

    @property
    def stream(self) -> LiveStream | None:
        """The stream that the answer is logged to, once it is open."""
        return self.recorder.stream

    @property
    def account(self) -> tuple[str, str]:
        """Whose this is when the exchanges of one caller are counted, and in which session."""
        if self.stream is not None:
            owner = self.stream.record.owner
            return account_of(self.scope, owner.principal), owner.session
        return account_of(self.scope, self.credential), self.request.session

    @functools.cached_property
    def credential(self) -> str:
        """What names its caller."""
        return identity.credential(self._context, self.scope)

    def start(self, body: Body) -> None:
        """Run the application in the background, in a copy of the current context."""
        self._messages = body.messages
        self.recorder.report.received(body)
        if self.kind is StreamKind.POST and (self.only_asks or self._context.settings.rerun):
            self._kept = StoredRequest.packed(self.request, self.scope, body, asks=self.only_asks)
        self._task = self._context.tasks.begin(self._run())
        self._context.drain.runners.add(self)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancel the application, as the server would have without us."""
        if self._task is not None:
            self._task.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether the answer to a request is still to come."""
        is_over = self._task is None or self._task.done() or self.recorder.is_ended
        return self.kind is StreamKind.POST and not is_over

    def hold(self) -> None:
        """The server is about to stop: its clients leave, and that is no wish of theirs."""
        self._disconnect.pause()

    def interrupt(
        self, why: str, outcome: ExchangeOutcome = ExchangeOutcome.INTERRUPTED, **data: object
    ) -> None:
        """End the request with an error in its stream, which has more `data`. One that has no
        stream yet is left to the server, whose connection waits for it.
        """
        if self.stream is not None:
            self.recorder.finish(why, outcome, **data)
            self.cancel()

    def _ended(self, _: asyncio.Task[None]) -> None:
        # Cancelled before its first step it has resolved nothing.
        self.opening.announce()
        if self.stream is not None:
            self.stream.on_readers = self.stream.on_lost = self.stream.on_taken = None
        self._context.drain.runners.discard(self)
        self._context.outliving.discard(self)
        self._context.drain.changed.notify()

    def join_session(self) -> None:
        """Let later GET requests of the session find this stream."""
        streams, key = self._context.session_streams, (self.place, self.request.session)
        streams[key] = self
        assert self._task is not None
        self._task.add_done_callback(lambda _: streams.get(key) is self and streams.pop(key))

    async def finished(self) -> None:
        """Wait for the application; raises what it raised."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        exit_guard.protect()
        self.recorder.report.enter()
        try:
            await self.app(self.scope, self._receive, self._send)
        except Exception as error:
            self.recorder.report.raised(error)
            if self.state is ExchangeState.PASSING:
                raise
            if self.opening.is_over:
                logger.exception("MPM-APP-01: The application raised after its answer had begun")
            else:
                self.opening.fail(error)
        finally:
            self.recorder.finish(*self._why())
            self.opening.announce()
            self._disconnect.close()
            self.scope = {}

    def _why(self) -> tuple[str, ExchangeOutcome]:
        if self._disconnect.is_final:
            return _CLIENT_LEFT, ExchangeOutcome.CANCELLED
        return INTERRUPTED if self._context.draining else _NO_ANSWER, ExchangeOutcome.INTERRUPTED

    # What the application sees.

    async def _receive(self) -> Message:
        if self._messages:
            message = self._messages.pop(0)
            if not self._messages:
                self.body_taken_at = time.monotonic()
            return message
        await self._disconnect.final()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        match self.state, message["type"]:
            case ExchangeState.HOLDING, "http.response.start":
                await self._begin(message)
            case ExchangeState.PASSING, _:
                if self._passed is not None:
                    self._passed.learn(message)
                await self._send_to_client(message)
            case ExchangeState.STREAMING, "http.response.start":
                # The stream was opened early; this is what it was opened for.
                self.recorder.settle(self.scope)
                status, raw = message["status"], message.get("headers", [])
                if not headers.is_event_stream(status, raw):
                    self.state = ExchangeState.COLLECTING
                    limit = self._context.settings.max_event_bytes
                    self._late = BufferedAnswer(status, raw, limit)
                self._learn_head(message)
            case ExchangeState.STREAMING, "http.response.body":
                await self._log(message)
            case ExchangeState.COLLECTING, "http.response.body" if self._late is not None:
                self._late.add(message.get("body", b""))
                if not message.get("more_body", False):
                    await self.recorder.log_late(self._late)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._disconnect.close()

    async def _begin(self, message: Message) -> None:
        status, raw = message["status"], list(message.get("headers", []))
        self._learn_head(message)
        if not headers.is_event_stream(status, raw):
            self.state = ExchangeState.PASSING
            self._passed = self.recorder.passes(self.scope, self.credential, status, raw)
            self.opening.resolve(None)
            await self._send_to_client(message)
        elif self.opening.is_over:
            # The client left before it held an id: nobody can ever ask for this stream.
            self.state = ExchangeState.DROPPING
        elif self.kind is StreamKind.GET:
            stream = await self.recorder.open_for_session(
                self.app, self.scope, self.credential, raw
            )
            self._answer_on(stream, raw)
            if self.opening.is_over:
                # Its client left meanwhile, and nobody can join it: the next one goes on at once.
                self.recorder.finish("its client left")
        else:
            self.open(raw)

    def open(self, raw: list[tuple[bytes, bytes]], *, early: bool = False) -> None:
        """Open the stream that answers this request; `early`, before the application has begun."""
        known = self.credential
        self._answer_on(self.recorder.open(self.scope, known, raw, self._kept, early=early), raw)

    def _answer_on(self, stream: LiveStream, raw: list[tuple[bytes, bytes]]) -> None:
        self.state = ExchangeState.STREAMING
        # The server's side of the request is not needed any more, and is not small.
        self._send_to_client = nowhere
        self._write_to(stream, raw)
        self.opening.announce_soon()

    def go_on(self, stream: LiveStream) -> None:
        """Answer on a stream that another worker began."""
        self.state = ExchangeState.STREAMING
        self.recorder.go_on(stream)
        self._write_to(stream, [])
        self.opening.announce()

    def _write_to(self, stream: LiveStream, raw: list[tuple[bytes, bytes]]) -> None:
        stream.on_readers, stream.on_taken = self._disconnect.readers_changed, self.leave
        if self._context.settings.on_store_failure == "refuse":
            stream.on_lost = self._refuse
        self.opening.found(Opened(stream, raw))

    async def _log(self, message: Message) -> None:
        try:
            await self.recorder.log(message.get("body", b""))
        except EventTooLargeError as error:
            logger.error("MPM-STREAM-03: %s", error)
            self.recorder.finish(str(error))
            self.leave()
        if not message.get("more_body", False):
            self.recorder.finish("the application closed the stream without an answer")
        if self.opening.is_waiting and (self.stream is None or self.stream.last):
            self.opening.announce()

    def _refuse(self) -> None:
        """The store is gone and the policy is to say so: an error ends the stream."""
        self.recorder.finish("the event store is unavailable")
        self.leave()

    # Who is listening.

    def leave(self) -> None:
        """Tell the application that its client has left; it has half a minute to end."""
        self._disconnect.fire()

    def abandon(self) -> None:
        """The client left before it held an id, and nothing is sent to it any more."""
        if not self.opening.is_over:
            self.opening.resolve(None)
            if self.stream is not None:
                self.stream.detach()

    def alone(self) -> None:
        """The client left before it held an id."""
        if self.request.era.disconnect_cancels or self.kind is StreamKind.GET:
            self.leave()
        else:
            self._disconnect.detached(self._context.settings.detach_seconds)

    def outlive(self, seconds: float) -> None:
        """From now on nobody need read, for so long: then the application hears that its client
        has left."""
        if self._task is not None and not self._task.done():
            self._context.outliving.add(self)
            self._disconnect.outlive(seconds)

    def _learn_head(self, message: Message) -> None:
        told = self.request.era, message["status"], message.get("headers", [])
        self._context.memory.learn_head(self.place, self.credential, *told)
