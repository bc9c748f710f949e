"""The only writer to a client: a cursor becomes server-sent events, whoever reads and whenever."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator

from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.cursor import Page
from mcp_persist_middleware.model import StreamKind
from mcp_persist_middleware.protocol import event_id, headers, sse
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.redaction import hushed_response
from mcp_persist_middleware.streams import event_source, expiry, pace
from mcp_persist_middleware.streams.clean_close import CleanClose
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.handoff import Handoff
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.streams.read_point import ReadPoint
from mcp_persist_middleware.streams.render import Renderer
from mcp_persist_middleware.streams.subscribers import Subscriber

logger = rarely.logger(__name__)

# How soon a client is asked back after a connection ended for its own good.
_CHECKPOINT_RETRY_MS = 10
_TOGETHER = 0.01
# Most streams are over within this time, and then nobody has to watch for the client's leaving.
_UNWATCHED = 0.2
# At an abrupt cut this share of a call's age, at most, comes twice.
_ROTATE_SHARE = 0.01


class Delivery:
    """One connection of one client to one stream.

    Args:
        point: where it begins to read.
        era: of the request that it answers.
        subscriber: its place among those of one session stream.
        running: the exchange that it has asked for, where that runs here.
        handoff: what it may be told in the place of the answer, if that takes long.
    """

    def __init__(
        self,
        context: Context,
        point: ReadPoint,
        era: Era,
        subscriber: Subscriber | None = None,
        running: Exchange | None = None,
        handoff: Handoff | None = None,
    ) -> None:
        self.stream, self.epoch = point.stream, point.epoch
        self.subscriber = subscriber
        self._context = context
        self._point = point
        self._cursor = point.cursor(context)
        self._renderer = Renderer(point, era, pace.retry_ms(context, era, point.kind))
        self._page: Page | None = None
        """What was read and is not looked at yet."""
        self._held = b""
        """What is sent next, when it is known whether more follows."""
        self._leaving = False
        self._running = running
        self._handoff = handoff
        self._replaying = point.resumed
        self._began = time.monotonic()

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the stream ends, the client leaves, or it takes nothing any more."""
        clean_close, timer = CleanClose(send), expiry.timer(scope, self.stop)
        self._join()
        try:
            async with contextlib.aclosing(self._bodies()) as bodies:
                if self.subscriber is not None or not await self._send_short(
                    bodies, clean_close.send
                ):
                    with hushed_response():
                        chunks, head = self._chunks(bodies), self._point.head
                        response = event_source.response(self._context.settings, chunks, head)
                        await response(scope, receive, clean_close.send)
        except asyncio.CancelledError:
            await clean_close.say(sse.retry(self._last_retry_ms))
            raise
        except (SendTimeoutError, TimeoutError):
            telemetry.clients_cut.add(1)
            seconds = self._context.settings.send_timeout
            logger.info("A client took nothing for %s s and was cut", seconds)
        finally:
            if timer is not None:
                timer.cancel()
            self._context.drain.readers.discard(self)
            self._cursor.close()
            telemetry.readers.add(-1)

    def _join(self) -> None:
        telemetry.readers.add(1)
        if self.subscriber is not None:
            self.subscriber.on_over = self.stop
            if self.subscriber.is_over:
                # It was one too many before it got here.
                self.stop()
        self._context.drain.join(self)
        if not self._context.holds_lease:
            self.stop()

    async def _send_short(self, bodies: AsyncGenerator[bytes, None], send: Send) -> bool:
        """Send what comes at once, with nobody to watch for the client's leaving meanwhile;
        whether the stream was over by then, as most are."""
        until, raw = time.monotonic() + _UNWATCHED, headers.stream_head(self._point.head)
        async with asyncio.timeout(_UNWATCHED + self._context.settings.send_timeout):
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
        """Whether there is more of a stream that is written here, in memory and within so long."""
        until = time.monotonic() + seconds
        while self._cursor.is_local and self._page is None:
            self._page = self._cursor.ready()
            left = until - time.monotonic()
            if self._page is not None or left <= 0 or not self._cursor.is_caught_up:
                break
            await self._cursor.wait(left)
        return self._page is not None

    @property
    def is_idle(self) -> bool:
        """Whether no request that runs here is going to be answered on this connection."""
        return self._point.kind is StreamKind.GET or not self._cursor.is_local

    def stop(self) -> None:
        """End the connection in order, soon; its client is asked to come back."""
        self._leaving = True
        self._cursor.stop()
        if self.subscriber is not None:
            self.subscriber.wake()

    @property
    def _last_retry_ms(self) -> int:
        """What covers a restart, whatever the era's own pace is."""
        return max(self._renderer.retry_ms, self._context.settings.retry_ms)

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
                if self._renderer.delivered and time.monotonic() >= until:
                    telemetry.rotations.add(1)
                    yield sse.retry(_CHECKPOINT_RETRY_MS)
                    return
                before = self._cursor.position
                page = self._take()
                if page is None and (message := await self._handed_off()) is not None:
                    yield self._renderer.open() + sse.event(message) + sse.CRLF
                    return
                if page is None:
                    self._note_caught_up()
                    yield self._renderer.open()
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
                for body in self._renderer.render(page):
                    yield body
                if self._is_last(page):
                    return
        except StoreError as error:
            # A clean end brings the client back with its cursor, when the store may be back.
            logger.warning("MPM-STREAM-09: A stream cannot be read now: %s", error)
        yield self._renderer.open() + sse.retry(
            self._last_retry_ms if self._leaving else self._renderer.retry_ms
        )

    def _take(self) -> Page | None:
        page, self._page = self._page or self._cursor.ready(), None
        return page

    def _is_last(self, page: Page) -> bool:
        if self.subscriber is not None and page.events:
            self.subscriber.note(self.stream, self._cursor.position)
        if page.ended:
            self._note_caught_up()
        return page.ended and not self._leaving

    def _note_caught_up(self) -> None:
        if self._replaying:
            self._replaying = False
            telemetry.replay_seconds.record(time.monotonic() - self._began)

    async def _handed_off(self) -> bytes | None:
        """What ends this connection in the place of the answer, if it is time for that."""
        handoff = self._handoff
        if handoff is None or time.monotonic() < handoff.at:
            return None
        self._handoff = None
        stream = self._running.stream if self._running is not None else None
        if stream is not None and (stream.ended or stream.ending is not None):
            return None
        return await handoff.take(self._running) if await handoff.may() else None

    async def _wait(self, until: float) -> Page | None:
        if self._handoff is not None:
            until = min(until, self._handoff.at)
        elif not self._renderer.delivered:
            until = math.inf
        if until == math.inf:
            return await self._cursor.next()
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await self._cursor.next()
        except TimeoutError:
            return None

    async def _may_deliver(self, subscriber: Subscriber, page: Page) -> bool:
        """Whether this connection is the newest. The end of a stream is everybody's."""
        return not page.events or await subscriber.receives()

    async def _wait_for_turn(self, subscriber: Subscriber, position: int) -> None:
        """A newer connection receives: keep silent until it has left, and go on behind it."""
        self._cursor.go_to(position)
        while not (self._leaving or await subscriber.regain()):
            # Of too many that wait the oldest leaves.
            self._leaving |= subscriber.is_over
        self._cursor.go_to(max(position, subscriber.read_in(self.stream)))

    def _rotation(self) -> float:
        """When (monotonic) this connection should end so that its client's cursor moves on.

        Clients come back from an abrupt cut with the cursor from before the resumed connection,
        and give up after two cuts; a clean end makes them take the newest cursor and try anew.
        The interval grows with the stream: the Python clients resume by recursion, and an even
        beat would exhaust their stack (after 959 resumes, measured).
        """
        rotate = self._context.settings.resume_rotate
        if not self._point.resumed or rotate is None:
            return math.inf
        age = self._context.log.now() - event_id.created_at(self.stream)
        return time.monotonic() + max(rotate, _ROTATE_SHARE * age)
