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
from mcp_persist_middleware.model import Place, StreamKind
from mcp_persist_middleware.protocol import classify, coding, headers
from mcp_persist_middleware.streams import exit_guard, identity
from mcp_persist_middleware.streams.buffered_answer import BufferedAnswer
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.disconnect import DisconnectTimer
from mcp_persist_middleware.streams.drain import INTERRUPTED
from mcp_persist_middleware.streams.memory import MAX_LEARNED
from mcp_persist_middleware.streams.recorder import Recorder
from mcp_persist_middleware.streams.state import ExchangeState, Opened
from mcp_persist_middleware.streams.stored_request import StoredRequest
from mcp_persist_middleware.streams.unpack import hand_in
from mcp_persist_middleware.wakeups.local import Signal

logger = rarely.logger(__name__)

# How long the head of a stream waits for the first event. It would not arrive any sooner.
_FIRST_EVENT = 0.005


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
        self.scope: Scope = hand_in(scope)
        self.place = place_of(scope)
        self.state = ExchangeState.HOLDING
        self.body_taken_at: float | None = None
        self.opened: asyncio.Future[Opened | None] = asyncio.get_running_loop().create_future()
        self.begun = Signal()
        """Tells that `opened` is done."""
        self._recorder = Recorder(context, request, self.place)
        self._send_to_client: Send = send
        self._messages: list[Message] = []
        self._disconnect = DisconnectTimer(context, self, self.cancel)
        self._late: BufferedAnswer | None = None
        self._stream_opened: Opened | None = None
        self._announcing: asyncio.TimerHandle | None = None
        self._passed, self._has_result = 0, False
        self._plain: coding.Plain | None = None
        self._kept: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def kind(self) -> StreamKind:
        """Which request this is."""
        return self._recorder.kind

    @property
    def stream(self) -> LiveStream | None:
        """The stream that the answer is logged to, once it is open."""
        return self._recorder.stream

    @property
    def account(self) -> tuple[str, str]:
        """Whose this is when the exchanges of one caller are counted, and in which session."""
        if self.stream is not None:
            owner = self.stream.record.owner
            return account_of(self.scope, owner.principal), owner.session
        return account_of(self.scope, self.credential), self.request.session

    def ask_here(self) -> None:
        """The connection that has asked is this worker's: the answer may reach it at once."""
        self._recorder.is_asked_here = True

    @functools.cached_property
    def credential(self) -> str:
        """What names its caller."""
        return identity.credential(self._context, self.scope)

    def start(self, body: Body) -> None:
        """Run the application in the background, in a copy of the current context."""
        self._messages = body.messages
        if self._context.settings.rerun is not None and self.kind is StreamKind.POST:
            kept = StoredRequest.of(self.request, self.scope, body.content)
            self._kept = kept.pack() if kept is not None else None
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
        is_over = self._task is None or self._task.done() or self._recorder.is_ended
        return self.kind is StreamKind.POST and not is_over

    def hold(self) -> None:
        """The server is about to stop: its clients leave, and that is no wish of theirs."""
        self._disconnect.pause()

    def interrupt(self, why: str) -> None:
        """End the request with an error in its stream. One that has no stream yet is left to the
        server, whose connection waits for it.
        """
        if self.stream is not None:
            self._recorder.finish(why)
            self.cancel()

    def _ended(self, _: asyncio.Task[None]) -> None:
        # Cancelled before its first step it has resolved nothing.
        self._resolve(self._stream_opened)
        if self.stream is not None:
            self.stream.on_readers = self.stream.on_lost = self.stream.on_taken = None
        self._context.drain.runners.discard(self)
        self._context.drain.changed.notify()

    def join_session(self) -> None:
        """Let later GET requests of the session find this stream."""
        key = (self.place, self.request.session)
        self._context.session_streams[key] = self
        assert self._task is not None
        self._task.add_done_callback(lambda _: self._leave_session(key))

    def _leave_session(self, key: tuple[Place, str]) -> None:
        if self._context.session_streams.get(key) is self:
            del self._context.session_streams[key]

    async def finished(self) -> None:
        """Wait for the application; raises what it raised."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _run(self) -> None:
        exit_guard.protect()
        try:
            await self._app(self.scope, self._receive, self._send)
        except Exception as error:
            if self.state is ExchangeState.PASSING:
                raise
            if self.opened.done():
                logger.exception("The application raised after its answer had begun")
            else:
                self.opened.set_exception(error)
                self.begun.notify()
        finally:
            self._recorder.finish(self._why())
            self.announce()
            self._disconnect.close()
            self.scope = {}

    def _why(self) -> str:
        if self._disconnect.is_final:
            return "the client left and did not come back in time; the request was cancelled"
        if self._context.draining:
            return INTERRUPTED
        return "the application ended the request without an answer"

    def _resolve(self, opened: "Opened | None") -> None:
        if not self.opened.done():
            self.opened.set_result(opened)
            self.begun.notify()

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
                self._learn_body(message)
                await self._send_to_client(message)
            case ExchangeState.STREAMING, "http.response.start":
                # The stream was opened early; this is what it was opened for.
                self._recorder.settle(self.scope)
                if not headers.is_event_stream(message["status"], message.get("headers", [])):
                    self.state = ExchangeState.COLLECTING
                    limit = self._context.settings.max_event_bytes
                    self._late = BufferedAnswer(
                        message["status"], message.get("headers", []), limit
                    )
                self._learn_head(message)
            case ExchangeState.STREAMING, "http.response.body":
                await self._log(message)
            case ExchangeState.COLLECTING, "http.response.body" if self._late is not None:
                self._late.add(message.get("body", b""))
                if not message.get("more_body", False):
                    await self._recorder.log_late(self._late)
            case _:
                pass

    async def _begin(self, message: Message) -> None:
        status, raw = message["status"], list(message.get("headers", []))
        self._learn_head(message)
        if not headers.is_event_stream(status, raw):
            self.state = ExchangeState.PASSING
            self._plain = coding.Plain(raw, MAX_LEARNED) if coding.is_compressed(raw) else None
            self._resolve(None)
            await self._send_to_client(message)
        elif self.opened.done():
            # The client left before it held an id: nobody can ever ask for this stream.
            self.state = ExchangeState.DROPPING
        elif self.kind is StreamKind.GET:
            stream = await self._recorder.open_for_session(
                self._app, self.scope, self.credential, raw
            )
            self._answer_on(stream, raw)
            if self.opened.done():
                # Its client left meanwhile, and nobody can join it: the next one goes on at once.
                self._recorder.finish("its client left")
        else:
            self.open(raw)

    def open(self, raw: list[tuple[bytes, bytes]], *, early: bool = False) -> None:
        """Open the stream that answers this request; `early`, before the application has begun."""
        known = self.credential
        self._answer_on(self._recorder.open(self.scope, known, raw, self._kept, early=early), raw)

    def _answer_on(self, stream: LiveStream, raw: list[tuple[bytes, bytes]]) -> None:
        self.state = ExchangeState.STREAMING
        # The server's side of the request is not needed any more, and is not small.
        self._send_to_client = nowhere
        self._write_to(stream, raw)
        # The client's side is made ready while the first event is on its way to the store.
        self._announcing = asyncio.get_running_loop().call_later(_FIRST_EVENT, self.announce)

    def go_on(self, stream: LiveStream) -> None:
        """Answer on a stream that another worker began."""
        self.state = ExchangeState.STREAMING
        self._recorder.go_on(stream)
        self._write_to(stream, [])
        self.announce()

    def _write_to(self, stream: LiveStream, raw: list[tuple[bytes, bytes]]) -> None:
        stream.on_readers, stream.on_taken = self._readers_changed, self.leave
        if self._context.settings.on_store_failure == "refuse":
            stream.on_lost = self._refuse
        self._stream_opened = Opened(stream, raw)

    def announce(self) -> None:
        """Let the client have the stream, if there is one."""
        self._resolve(self._stream_opened)
        if self._announcing is not None:
            self._announcing.cancel()
            self._announcing = None

    async def _log(self, message: Message) -> None:
        try:
            await self._recorder.log(message.get("body", b""))
        except EventTooLargeError as error:
            logger.error("%s", error)
            self._recorder.finish(str(error))
            self.leave()
        if not message.get("more_body", False):
            self._recorder.finish("the application closed the stream without an answer")
        if self._announcing is not None and (self.stream is None or self.stream.last):
            self.announce()

    def _refuse(self) -> None:
        """The store is gone and the policy is to say so: an error ends the stream."""
        self._recorder.finish("the event store is unavailable")
        self.leave()

    # Who is listening.

    def leave(self) -> None:
        """Tell the application that its client has left; it has half a minute to end."""
        self._disconnect.fire()

    def abandon(self) -> None:
        """The client left before it held an id, and nothing is sent to it any more."""
        if not self.opened.done():
            self._resolve(None)
            if self.stream is not None:
                self.stream.detach()

    def alone(self) -> None:
        """The client left before it held an id."""
        if self.request.era.disconnect_cancels or self.kind is StreamKind.GET:
            self.leave()
        else:
            self._disconnect.detached(self._context.settings.detach_seconds)

    def _readers_changed(self) -> None:
        if self.stream is None or self.stream.readers:
            self._disconnect.attached()
        elif self._task is not None and not self._task.done():
            cancels = self.request.era.disconnect_cancels and not self._context.draining
            settings = self._context.settings
            self._disconnect.detached(
                settings.disconnect_grace if cancels else settings.detach_seconds
            )

    # What the answers teach.

    def _learn_head(self, message: Message) -> None:
        status, raw = message["status"], message.get("headers", [])
        self._context.memory.learn_head(self.place, self.credential, self.request.era, status, raw)

    def _learn_body(self, message: Message) -> None:
        body = message.get("body", b"")
        if self._plain is not None:
            body = self._plain.feed(body)
        self._passed += len(body)
        memory, call = self._context.memory, self.request.call
        memory.learn_body(self.place, call, body)
        # How long a refusal or an error is says nothing of the next result.
        self._has_result |= b'"result"' in body
        ended = self._has_result and not message.get("more_body", False)
        memory.learn_size(self.place, call, self._passed, ended=ended)
