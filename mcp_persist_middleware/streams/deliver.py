"""The only writer to a client: a cursor becomes server-sent events, whoever reads and whenever."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.cursor import Cursor, Page
from mcp_persist_middleware.model import Event, EventKind, StreamKind
from mcp_persist_middleware.protocol import event_id, headers, sse
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.redaction import hushed_response
from mcp_persist_middleware.streams.clean_close import CleanClose, KeepAlive
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.subscribers import Subscriber

logger = rarely.logger(__name__)

_CHUNK = 64 * 1024
# How soon a client is asked back after a connection ended for its own good.
_CHECKPOINT_RETRY_MS = 10
_TOGETHER = 0.01
# Most streams are over within this time, and then nobody has to watch for the client's leaving.
_UNWATCHED = 0.2
# At an abrupt cut this share of a call's age, at most, comes twice.
_SELDOM = 86_400
_ROTATE_SHARE = 0.01


@dataclass(slots=True, eq=False)
class Delivery:
    """One connection of one client to one stream."""

    context: Context
    cursor: Cursor
    stream: bytes
    ids: EventIds
    epoch: int
    kind: StreamKind
    retry_ms: int
    priming: bool
    """Begin with an event that has an id and no data, as the client's era allows."""
    resumed: bool
    head: Sequence[tuple[bytes, bytes]]
    subscriber: Subscriber | None = None
    """The place of this connection among those of one session stream."""
    _page: Page | None = None
    """What was read and is not looked at yet."""
    _opening: bytes = b""
    """What opens the stream: it leaves with what comes first."""
    _held: bytes = b""
    """What is sent next, when it is known whether more follows."""
    _leaving: bool = False
    _delivered: int = 0
    _replaying: bool = True
    _began: float = field(default_factory=time.monotonic)

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the stream ends, the client leaves, or it takes nothing any more."""
        clean_close = CleanClose(send)
        self._join()
        self._opening = self._prime()
        try:
            async with contextlib.aclosing(self._bodies()) as bodies:
                if self.subscriber is not None or not await self._send_short(
                    bodies, clean_close.send
                ):
                    with hushed_response():
                        await self._response(bodies)(scope, receive, clean_close.send)
        except asyncio.CancelledError:
            await clean_close.say(self._last_retry_ms)
            raise
        except (SendTimeoutError, TimeoutError):
            telemetry.clients_cut.add(1)
            seconds = self.context.settings.send_timeout
            logger.info("A client took nothing for %s s and was cut", seconds)
        finally:
            self.context.drain.readers.discard(self)
            self.cursor.close()
            telemetry.readers.add(-1)

    def _join(self) -> None:
        telemetry.readers.add(1)
        if self.subscriber is not None:
            self.subscriber.on_over = self.stop
            if self.subscriber.is_over:
                # It was one too many before it got here.
                self.stop()
        self.context.drain.join(self)
        if not self.context.holds_lease:
            self.stop()

    async def _send_short(self, bodies: AsyncGenerator[bytes, None], send: Send) -> bool:
        """Send what comes at once, with nobody to watch for the client's leaving meanwhile;
        whether the stream was over by then, as most are."""
        until, raw = time.monotonic() + _UNWATCHED, headers.stream_head(self.head)
        async with asyncio.timeout(_UNWATCHED + self.context.settings.send_timeout):
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            # What opens the stream leaves with what comes first, if that comes soon.
            await self._comes(_TOGETHER)
            async for body in bodies:
                held, self._held = self._held, body
                if held:
                    await send({"type": "http.response.body", "body": held, "more_body": True})
                left = until - time.monotonic()
                if left <= 0 or not (body or await self._comes(left)):
                    return False
            await send({"type": "http.response.body", "body": self._held})
        return True

    async def _comes(self, seconds: float) -> bool:
        """Whether there is more of a stream that is written here, within so long."""
        until = time.monotonic() + seconds
        while self.cursor.is_local and self._page is None:
            self._page = self.cursor.ready()
            left = until - time.monotonic()
            if self._page is not None or left <= 0:
                break
            await self.cursor.wait(left)
        return self._page is not None

    def _response(self, bodies: AsyncGenerator[bytes, None]) -> EventSourceResponse:
        settings = self.context.settings
        response = EventSourceResponse(
            self._chunks(bodies),
            # Releases of sse-starlette before its issue 206 take 0 for "without a pause".
            ping=settings.ping_seconds or _SELDOM,
            ping_message_factory=KeepAlive,
            send_timeout=settings.send_timeout,
            # We leave by ourselves in time; this is for a client that takes nothing meanwhile.
            shutdown_grace_period=settings.drain_seconds + 1,
        )
        response.raw_headers = headers.stream_head(self.head)
        return response

    @property
    def is_idle(self) -> bool:
        """Whether no request that runs here is going to be answered on this connection."""
        return self.kind is StreamKind.GET or not self.cursor.is_local

    def stop(self) -> None:
        """End the connection in order, soon; its client is asked to come back."""
        self._leaving = True
        self.cursor.stop()
        if self.subscriber is not None:
            self.subscriber.wake()

    @property
    def _last_retry_ms(self) -> int:
        """What covers a restart, whatever the era's own pace is."""
        return max(self.retry_ms, self.context.settings.retry_ms)

    async def _chunks(self, bodies: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        held, self._held = self._held, b""
        if held:
            yield held
        async for body in bodies:
            if body:
                yield body

    async def _bodies(self) -> AsyncGenerator[bytes, None]:
        """The stream from the cursor on; an empty body comes before every wait."""
        until = self._rotation()
        try:
            while not self._leaving:
                if self._delivered and time.monotonic() >= until:
                    telemetry.rotations.add(1)
                    yield sse.retry(_CHECKPOINT_RETRY_MS)
                    return
                before = self.cursor.position
                page = self._take()
                if page is None:
                    self._note_caught_up()
                    yield self._open()
                    yield b""
                    page = self._take() or await self._wait(until)
                if page is None:
                    continue
                if self.subscriber is not None and not await self._may_deliver(
                    self.subscriber, page
                ):
                    # It may wait for long, and a page is not small.
                    del page
                    await self._wait_for_turn(self.subscriber, before)
                    continue
                for body in self._render(page):
                    yield body
                if self._is_last(page):
                    return
        except StoreError as error:
            # A clean end brings the client back with its cursor, when the store may be back.
            logger.warning("A stream cannot be read now: %s", error)
        yield self._open() + sse.retry(self._last_retry_ms if self._leaving else self.retry_ms)

    def _take(self) -> Page | None:
        page, self._page = self._page or self.cursor.ready(), None
        return page

    def _is_last(self, page: Page) -> bool:
        if self.subscriber is not None and page.events:
            self.subscriber.note(self.stream, self.cursor.position)
        if page.ended:
            self._note_caught_up()
        return page.ended and not self._leaving

    def _open(self) -> bytes:
        opening, self._opening = self._opening, b""
        return opening

    def _prime(self) -> bytes:
        if not self.priming:
            return b""
        make = self.ids.prime if self.resumed else self.ids.at
        return sse.priming(make(self.epoch, self.cursor.position), self.retry_ms)

    def _note_caught_up(self) -> None:
        if self.resumed and self._replaying:
            self._replaying = False
            telemetry.replay_seconds.record(time.monotonic() - self._began)

    async def _wait(self, until: float) -> Page | None:
        if not self._delivered or until == math.inf:
            return await self.cursor.next()
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await self.cursor.next()
        except TimeoutError:
            return None

    async def _may_deliver(self, subscriber: Subscriber, page: Page) -> bool:
        """Whether this connection is the newest. The end of a stream is everybody's."""
        return not page.events or await subscriber.receives()

    async def _wait_for_turn(self, subscriber: Subscriber, position: int) -> None:
        """A newer connection receives: keep silent until it has left, and go on behind it."""
        self.cursor.position = position
        while not (self._leaving or await subscriber.regain()):
            # Of too many that wait the oldest leaves.
            self._leaving |= subscriber.is_over
        self.cursor.position = max(position, subscriber.read_in(self.stream))

    def _rotation(self) -> float:
        """When (monotonic) this connection should end so that its client's cursor moves on.

        Clients come back from an abrupt cut with the cursor from before the resumed connection,
        and give up after two cuts; a clean end makes them take the newest cursor and try anew.
        The interval grows with the stream: the Python clients resume by recursion, and an even
        beat would exhaust their stack (after 959 resumes, measured).
        """
        rotate = self.context.settings.resume_rotate
        if not self.resumed or rotate is None:
            return math.inf
        age = self.context.log.now() - event_id.created_at(self.stream)
        return time.monotonic() + max(rotate, _ROTATE_SHARE * age)

    def _render(self, page: Page) -> Iterator[bytes]:
        """A page as body messages: many small events in one, a large event in several, of which
        one at a time is copied for this client."""
        parts, size = self._before(page), 0
        for event in page.events:
            if self._is_stale(event):
                continue
            if event.epoch:
                parts.append(sse.id_line(self.ids.at(event.epoch, event.sequence)))
            frame, after = event.frame, sse.CRLF
            if not (self._delivered or self.priming):
                after = b"retry: %d\r\n\r\n" % self.retry_ms
            self._delivered += 1
            size += len(frame)
            if len(frame) > _CHUNK:
                yield from _slices(b"".join(parts), frame, after)
            else:
                parts += (frame, after)
                if size < _CHUNK:
                    continue
                yield b"".join(parts)
            parts, size = [], 0
        if page.events and self.priming and self._is_stale(page.events[-1]):
            # Nor is it when that client comes back.
            last = self.ids.at(page.events[-1].epoch, page.events[-1].sequence)
            parts.append(sse.priming(last, self.retry_ms))
        if self.resumed and page.events:
            telemetry.replayed.add(len(page.events))
        if parts:
            yield b"".join(parts)

    def _before(self, page: Page) -> list[bytes]:
        """What the application says while it has no events, and what is said of events that a
        reader does not get."""
        said = [each for each in (self._open(), page.comment) if each]
        if page.missing:
            telemetry.gaps.add(page.missing)
            said.append(sse.comment(f"gap: {page.missing} events were removed by retention"))
        if page.passed:
            said.append(sse.comment(f"gap: {page.passed} events were sent before, without an id"))
        return said

    def _is_stale(self, event: Event) -> bool:
        """An old request of the server is not put to a client that does not ask for it."""
        until = self.subscriber.suppress_requests_through if self.subscriber is not None else 0
        return event.sequence <= until and event.kind is EventKind.REQUEST


def _slices(before: bytes, frame: bytes, after: bytes) -> Iterator[bytes]:
    """A large event by position. The last message ends it, as `CleanClose` has to see."""
    yield before + frame[:_CHUNK]
    last = (len(frame) - 1) // _CHUNK * _CHUNK
    for start in range(_CHUNK, last, _CHUNK):
        yield frame[start : start + _CHUNK]
    yield frame[last:] + after
