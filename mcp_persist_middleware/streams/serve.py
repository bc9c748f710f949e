"""A request that asks the application for something: run it, and deliver its stream from the
beginning, with the same loop that serves a resume."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Message, Scope, Send

from mcp_persist_middleware import asgi, telemetry
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import StreamKind
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.deliver import Delivery
from mcp_persist_middleware.streams.lease_guard import refuse
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.streams.read_point import ReadPoint
from mcp_persist_middleware.streams.state import ExchangeState, Opened
from mcp_persist_middleware.supervision import scoped

# Most answers begin within this time, and then nobody has to watch for the client's leaving.
_UNWATCHED = 0.05


async def begin(
    context: Context,
    running: Exchange,
    body: Body,
    client: Client,
    send: Send,
    claim: Callable[[], Awaitable[bool]] | None = None,
) -> Opened | None:
    """Run a request. The stream that answers it; None when its client has had the whole answer,
    or has left.

    Args:
        claim: whether it may run, asked last: from then on nothing keeps it from that. Where it may
            not, its client is answered.
    """
    call = running.request.call
    if not running.request.era.keeps_sessions and call is not None and call.method == "tools/call":
        # Nobody but its own client hears otherwise of what it changes.
        await context.boards.before_call(running.app, running.scope, body)
    if claim is not None and not await claim():
        return None
    running.start(body)
    if running.head is not None:
        running.open(list(running.head), early=True)
        running.opening.announce()
        running.outlive(running.recorder.kept)
    try:
        opened = await answer(context, running, client, send)
        if opened is None and running.state is ExchangeState.PASSING:
            await _pass(running, client)
        elif opened is None and running.state is ExchangeState.HOLDING and not context.holds_lease:
            await refuse(send)
    except asyncio.CancelledError:
        if running.state in (ExchangeState.HOLDING, ExchangeState.PASSING):
            running.cancel()
        raise
    return opened


async def deliver(
    context: Context, running: Exchange, opened: Opened, scope: Scope, client: Client, send: Send
) -> None:
    """The first delivery of a stream that is written here."""
    stream, reader = opened.stream, _FirstReader(opened.stream, client)
    point = ReadPoint(
        stream.ids,
        live=stream,
        epoch=stream.record.epoch,
        resumed=False,
        is_asking=True,
        head=opened.head,
    )
    try:
        era, handoff = running.request.era, running.handoff
        delivery = Delivery(context, point, era, running=running, handoff=handoff)
        await delivery.run(scope, reader.receive, send)
    finally:
        reader.leave()


class _FirstReader:
    """The client as a reader of its stream, until it leaves; then it may still take something."""

    def __init__(self, stream: LiveStream, client: Client) -> None:
        self._stream = stream
        self._client = client
        self._is_here = True
        stream.attach()

    async def receive(self) -> Message:
        """The disconnect, a moment after it came."""
        message = await self._client.receive()
        self.leave()
        # What is sent without an id is sent once: it waits for the client that may come back.
        if not self._stream.degraded:
            await asyncio.sleep(asgi.HALF_CLOSED)
        return message

    def leave(self) -> None:
        """Nobody is known to read from now on."""
        if self._is_here:
            self._is_here = False
            self._stream.detach()


async def answer(context: Context, running: Exchange, client: Client, send: Send) -> Opened | None:
    """The stream that answers; None when the answer is not a stream or nobody waits for it."""
    # Of one that was opened before it ran it has been told already, and is not told again.
    if not running.opening.is_over:
        await running.opening.begun.wait(_UNWATCHED)
    while not running.opening.opened.done():
        watcher = client.watch()
        timeouts = _time_to_early_start(context, running), _time_to_handoff(running)
        timeout = min((each for each in timeouts if each is not None), default=None)
        waiting: set[asyncio.Future[Any]] = {running.opening.opened, watcher}
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if running.opening.opened.done():
            break
        if watcher.done():
            await _let_go(running)
        elif _time_to_handoff(running) == 0:
            if await _hand_off(running, send):
                return None
        elif _time_to_early_start(context, running) == 0:
            telemetry.early_starts.add(1)
            running.open([], early=True)
            running.opening.announce()
    return await running.opening.opened


def _time_to_handoff(running: Exchange) -> float | None:
    """Seconds until its client is told to ask for the answer later; None for never."""
    handoff = running.handoff
    return None if handoff is None else max(0.0, handoff.at - time.monotonic())


async def _hand_off(running: Exchange, send: Send) -> bool:
    """Tell a client to which nothing has been sent to ask for the answer later, if that may be."""
    handoff = running.handoff
    may = handoff is not None and await handoff.may()
    if may and running.opening.is_over:
        # Its stream has begun meanwhile: whoever delivers that goes on with it.
        return False
    running.handoff = None
    if handoff is None or not may:
        return False
    if running.stream is None:
        running.open(list(handoff.head), early=True)
    message = await handoff.take(running)
    if message is None:
        running.opening.announce()
        return False
    assert running.stream is not None
    # Whoever was on the way reads it elsewhere.
    running.stream.detach()
    running.opening.resolve(None)
    await asgi.answer_json(send, message, *handoff.head)
    return True


async def _let_go(running: Exchange) -> None:
    """The client has left without an id; what is there in a moment, it may still take."""
    running.alone()
    if running.kind is StreamKind.POST:
        await asyncio.wait({running.opening.opened}, timeout=asgi.HALF_CLOSED)
    running.abandon()


def _time_to_early_start(context: Context, running: Exchange) -> float | None:
    """Seconds to wait before the stream is opened without the application; None for never."""
    after = context.settings.prime_after
    if after is None or not _may_start_early(context, running):
        return None
    taken = running.body_taken_at
    # The application has not taken the whole body yet: authentication may still be under way.
    if taken is None:
        return max(after, _UNWATCHED)
    return max(0.0, taken + after - time.monotonic())


def _may_start_early(context: Context, running: Exchange) -> bool:
    """Whether opening the stream now can spoil nothing: no 401, no 404, no CORS header of the
    application, no body that is too large for an event."""
    call, memory = running.request.call, context.memory
    if running.state is not ExchangeState.HOLDING:
        return False
    if call is None or call.method == "initialize" or len(call.request_ids) != 1:
        return False
    if headers.get(running.scope["headers"], b"origin") is not None:
        return False
    if memory.answers_json(running.place) and not context.settings.prime_json:
        return False
    is_small = memory.is_small(running.place, call)
    if is_small is None:
        # A late answer that comes as JSON of any size could not leave as an event.
        is_small = not running.request.era.json_per_answer
    return is_small and memory.accepts(running.place, running.credential)


async def _pass(running: Exchange, client: Client) -> None:
    """Wait for the application to finish an answer of its own, and tell it if the client goes."""
    with scoped(running.finished(), "mcp-persist-pass") as finished:
        done, _ = await asyncio.wait({finished}, timeout=_UNWATCHED)
        if not done:
            watcher = client.watch()
            await asyncio.wait({finished, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if not finished.done():
                running.leave()
                # The application may have to be cancelled; this request is not.
                await asyncio.wait({finished})
        # Cancelled with the worker's lease or at shutdown; the server sees an unfinished answer.
        if not finished.cancelled():
            await finished
