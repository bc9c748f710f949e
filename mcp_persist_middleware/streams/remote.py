"""A request whose client is on another worker: run here and read there, through the log alone."""

import asyncio
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import Event, EventKind, RequestId, StreamKind
from mcp_persist_middleware.protocol import classify, event_id, headers
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.streams import chain, listen, rerun, serve
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.deliver import Delivery
from mcp_persist_middleware.streams.pump import Exchange

_CREATED_SECONDS = 1.0
# An answer that has ended within so long (seconds), or is being committed, travels with the word
# that it is there, if it is not larger than this.
_SOON, _COMMIT, _SMALL = 0.004, 0.05, 16 * 1024


@dataclass(frozen=True, slots=True)
class Remote:
    """A stream that another worker writes, and where its reader begins."""

    stream: bytes
    kind: StreamKind
    request_id: RequestId
    head: headers.RawHeaders
    after: int = 0
    joined: bool = False
    """It had begun before the request that is answered with it."""
    suppress_requests_through: int = 0
    """Requests of the server up to this event are too old for it."""
    events: tuple[Event, ...] = ()
    """All of a stream that has ended, where that is little."""


async def begin(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    body: Body,
    receive: Receive,
    send: Send,
) -> Remote | None:
    """Run a request for a client of another worker. Its stream, committed; or None when the
    answer is not an event stream: `send` has had the whole of it then."""
    running = Exchange(context, app, scope, request, send)
    client = Client(receive)
    try:
        opened = await serve.begin(context, running, body, client, send)
        if opened is not None:
            await _created(opened.stream)
            events = await _whole(opened.stream)
            # Nobody reads it here: from now on only a reader elsewhere keeps it alive.
            opened.stream.detach()
            call = request.call
            number = call.request_id if call is not None else None
            name = opened.stream.record.id
            return Remote(name, running.kind, number, opened.head, events=events)
    finally:
        client.close()
    return None


async def begin_again(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    body: Body,
    position: event_id.Position,
    send: Send,
) -> Remote | None:
    """The same for a request that is run again (see `again.begin`)."""
    refusal = await rerun.begin(context, app, scope, request, body, position.stream)
    if refusal is not None:
        await refusal.pass_on(send)
        return None
    head = [(headers.SESSION_ID, request.session.encode("latin-1"))]
    kind, number = position.kind, position.request_id
    return Remote(position.stream, kind, number, head, position.sequence, joined=True)


async def begin_session_stream(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    receive: Receive,
    send: Send,
) -> Remote | None:
    """The same for a GET: where it goes on in the session's stream."""
    client = Client(receive)
    try:
        spot = await listen.find(context, app, scope, request, client, send)
    finally:
        client.close()
    if spot is None:
        return None
    if spot.live is not None:
        await _created(spot.live)
    head = list(spot.head) or [(headers.SESSION_ID, request.session.encode("latin-1"))]
    return Remote(
        spot.stream,
        StreamKind.GET,
        None,
        head,
        spot.after,
        joined=spot.resumed,
        suppress_requests_through=spot.suppress_requests_through,
    )


async def deliver(
    context: Context, remote: Remote, era: Era, scope: Scope, receive: Receive, send: Send
) -> None:
    """The first delivery of a stream that another worker writes."""
    if remote.kind is StreamKind.GET:
        spot = chain.ResumePoint(
            remote.stream,
            remote.after,
            suppress_requests_through=remote.suppress_requests_through,
            resumed=remote.joined,
            head=remote.head,
        )
        session = headers.get(scope["headers"], headers.SESSION_ID) or ""
        key, client = chain.key_of(scope, session), Client(receive)
        await listen.follow(context, key, spot, scope, era, client, send)
        return
    delivery = Delivery(
        context,
        Cursor(context.reads, remote.stream, remote.after, None, resumed=False, told=remote.events),
        remote.stream,
        event_id.EventIds.of(remote.stream, remote.kind, remote.request_id),
        1,
        remote.kind,
        retry_ms=serve.retry_of(context, era),
        priming=era.priming,
        resumed=remote.joined,
        head=list(remote.head),
    )

    async def later() -> Message:
        # As for a client whose stream is here.
        message = await receive()
        await asyncio.sleep(asgi.HALF_CLOSED)
        return message

    if remote.events:
        await delivery.run(scope, later, send)
        return
    with context.reader_leases.reading(remote.stream):
        await delivery.run(scope, later, send)


async def _created(stream: LiveStream) -> None:
    """A reader elsewhere finds a stream only in the store."""
    while not (stream.created or stream.degraded or stream.ended):
        await stream.signal.wait(_CREATED_SECONDS)


async def _whole(stream: LiveStream) -> tuple[Event, ...]:
    """All events of a stream that ends at once: committed, so that nobody need read them in the
    store. Of one that the store has never heard of, all there is: nobody could read it there."""
    if stream.degraded and not stream.created:
        while not stream.ended:
            await stream.signal.wait(_CREATED_SECONDS)
        return tuple(stream.tail_after(0) or ())
    until = time.monotonic() + _SOON
    while not (stream.ended or stream.degraded):
        events = stream.tail_after(0) or []
        if events and stream.ending is None and events[-1].kind is not EventKind.RESPONSE:
            # It goes on, and its reader waits for this.
            return ()
        left = until + (0.0 if stream.ending is None else _COMMIT) - time.monotonic()
        if left <= 0:
            return ()
        await stream.signal.wait(left)
    events = stream.tail_after(0) or []
    is_small = sum(len(event.frame) for event in events) <= _SMALL
    return tuple(events) if is_small and not stream.degraded else ()
