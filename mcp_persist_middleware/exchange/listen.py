"""The session's own stream (GET): one of the application's, held by us, and whoever reads it.

It is a chain of segments, one for each time that the session's home opened it. A cursor at the end
of a segment goes on in the next; a connection without a cursor goes on behind the last event that
was written to any client.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware.asgi import place_of, question
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.exchange import authorise, serve
from mcp_persist_middleware.exchange.body import Body
from mcp_persist_middleware.exchange.client import Client
from mcp_persist_middleware.exchange.context import Context
from mcp_persist_middleware.exchange.deliver import Delivery
from mcp_persist_middleware.exchange.pump import Exchange
from mcp_persist_middleware.log import orphans
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import Place, SessionKey, StreamKind, StreamRecord, StreamState
from mcp_persist_middleware.protocol import classify, headers
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.protocol.event_id import EventIds

logger = logging.getLogger(__name__)

# How long a request that brought its session back waits for the session's stream to open.
_OPEN_SECONDS = 2.0
_ALL = 1 << 53


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a connection begins to read."""

    stream: bytes
    after: int
    live: LiveStream | None = None
    """The stream itself when it is written here."""
    is_open: bool = True
    epoch: int = 1
    no_requests_until: int = 0
    """Requests of the server up to this event are too old for it."""
    resumed: bool = True
    head: headers.RawHeaders = ()


def key_of(scope: Scope, session: str) -> SessionKey:
    """The session of a request."""
    return SessionKey(*place_of(scope), session)


async def serve_stream(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    receive: Receive,
    send: Send,
) -> None:
    """Serve a GET for the session's stream."""
    client = Client(receive)
    try:
        spot = await find(context, app, scope, request, client, send)
        if spot is not None:
            key = key_of(scope, request.session)
            await follow(context, key, spot, scope, request.era, client, send)
    finally:
        client.close()


async def find(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    client: Client,
    send: Send,
) -> Spot | None:
    """Where a GET goes on, in the session's stream as it runs or in a new one; None when it has
    had the application's own answer.

    The application has one such stream for each session, and we hold it; a second one would be
    refused (409) while a dead proxy keeps the first.
    """
    key = key_of(scope, request.session)
    turns = context.listeners.of(key)
    async with turns.opening:
        running = _running(context, key)
        if running is None:
            begun = await _begin(context, app, scope, request, client, send)
            if begun is None or begun.stream is None:
                return None
            opened = begun.opened.result()
            head = opened.head if opened is not None else ()
            first = replace(_at(begun.stream, 0), resumed=False, head=head)
            spot = await _behind(context, key, request, begun.stream, first)
            return first if spot.stream == first.stream else spot
    verdict = await authorise.ask(context, app, scope, StreamKind.GET)
    if verdict.refused or verdict.principal != running.record.owner.principal:
        await verdict.pass_on(send)
        return None
    return await _behind(context, key, request, running, _at(running, 0))


async def _behind(
    context: Context,
    key: SessionKey,
    request: classify.Request,
    running: LiveStream,
    otherwise: Spot,
) -> Spot:
    """Behind what a client has seen: the one that asks, if it has a cursor, else the last one."""
    turns, cursor = context.listeners.of(key), request.cursor
    try:
        listening = await turns.look()
        segments = listening.segments if listening is not None else ()
        if cursor is not None and cursor.stream in segments:
            found = await spot_after(context, running.record, cursor.stream, cursor.sequence)
            return found or otherwise
        found = None
        if turns.stream:
            at = turns.stream, turns.sequence
            found = await spot_after(context, running.record, *at)
    except StoreError as error:
        logger.warning("How far a session's stream was read is not known: %s", error)
        found = None
    spot = found or otherwise
    # Whoever asked in an older segment is gone.
    old = spot.live.last if spot.live is not None else _ALL
    return replace(spot, no_requests_until=old)


async def spot_after(
    context: Context, owned: StreamRecord, stream: bytes, sequence: int
) -> Spot | None:
    """The first spot in a session's chain behind an event where anything is still to come; None
    when there is none, or the chain does not know that event. `owned` is one of its streams.

    Raises:
        StoreError: the store does not answer.
    """
    owner = owned.owner
    key = SessionKey(owner.namespace, owner.path, owner.session)
    listening = await context.listeners.of(key).look()
    chain = list(listening.segments) if listening is not None else []
    running = _running(context, key)
    if running is not None and running.record.id not in chain:
        chain.append(running.record.id)
    if stream not in chain:
        return None
    for segment in chain[chain.index(stream) :]:
        after = sequence if segment == stream else 0
        live = context.writer.live.get(segment)
        record = live.record if live is not None else await context.log.find(segment)
        # An application may let others into a session: their streams are in the chain as well.
        if record is None or record.owner != owner:
            continue
        if live is not None:
            return _at(live, after)
        record = await _ended(context, record)
        is_open = record is not None and record.state is StreamState.OPEN
        # One that is open and has a successor belongs to a home that has lost the session.
        if is_open and segment != chain[-1]:
            is_open = bool(await context.log.read(segment, after, 1, 1))
        if record is not None and (is_open or after < record.last_sequence):
            return Spot(segment, after, None, record.state is StreamState.OPEN, record.epoch)
    return None


async def _ended(context: Context, record: StreamRecord) -> StreamRecord | None:
    """A segment; its end when its worker is gone."""
    if record.state is StreamState.OPEN:
        verdict = await context.liveness.ask(record.worker)
        if verdict.gone or record.worker == context.worker:
            return await orphans.end(context.log, record, context.settings.ttl, verdict.seen_at)
    return record


def _at(live: LiveStream, after: int) -> Spot:
    epoch = live.record.epoch
    return Spot(live.record.id, min(after, live.committed), live, is_open=True, epoch=epoch)


def _running(context: Context, key: SessionKey) -> LiveStream | None:
    running = context.session_streams.get((Place(key.namespace, key.path), key.id))
    return running.stream if running is not None else None


async def _begin(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    client: Client,
    send: Send,
) -> Exchange | None:
    """Open the application's stream; the next segment, known to all."""
    running = Exchange(context, app, scope, request, send)
    body = Body([{"type": "http.request", "body": b"", "more_body": False}], complete=True)
    opened = await serve.begin(context, running, body, scope, client, send)
    if opened is None:
        return None
    running.join_session()
    # From now on only a reader keeps it from being alone.
    opened.stream.detach()
    owner = opened.stream.record.owner
    key = SessionKey(owner.namespace, owner.path, owner.session)
    try:
        await context.log.sessions.add_segment(key, opened.stream.record.id)
    except StoreError as error:
        logger.warning("A session's stream is not known to follow the one before: %s", error)
    return running


async def open_unread(
    context: Context, app: ASGIApp, scope: Scope, era: Era, key: SessionKey
) -> None:
    """A session that was brought back has its stream again before anything else runs in it, if
    its client had one: what the application says there meanwhile is not lost."""
    turns = context.listeners.of(key)
    try:
        listening = await turns.look()
    except StoreError:
        return
    if listening is None or not listening.segments:
        return
    request = classify.Request(classify.Kind.STREAM, era, key.id)
    client = Client(stay)
    try:
        async with asyncio.timeout(_OPEN_SECONDS), turns.opening:
            if _running(context, key) is None:
                asked = question(scope, "GET")
                asked["headers"] = headers.replaced(asked["headers"], headers.SESSION_ID, key.id)
                await _begin(context, app, asked, request, client, _nowhere)
    except TimeoutError:
        logger.warning("The stream of a session that was brought back does not open")
    finally:
        client.close()


async def follow(
    context: Context,
    key: SessionKey,
    spot: Spot,
    scope: Scope,
    era: Era,
    client: Client,
    send: Send,
) -> None:
    """Read a session's stream from a spot on, as its newest connection."""
    turns = context.listeners.of(key)
    turn = await turns.take(no_requests_until=spot.no_requests_until)
    live = spot.live
    ids = live.ids if live is not None else EventIds.of(spot.stream, StreamKind.GET, None)
    head = spot.head or [(headers.SESSION_ID, key.id.encode("latin-1"))]
    try:
        delivery = Delivery(
            context,
            Cursor(context.log, spot.stream, spot.after, live, resumed=spot.resumed),
            spot.stream,
            ids,
            spot.epoch,
            StreamKind.GET,
            retry_ms=context.settings.retry_ms,
            priming=era.priming,
            resumed=spot.resumed,
            head=head,
            turn=turn,
        )
        with present(context, spot):
            await delivery.run(scope, client.receive, send)
    finally:
        turn.leave()


@contextlib.contextmanager
def present(context: Context, spot: Spot) -> Iterator[None]:
    """The worker that writes the stream knows of a reader, whichever worker that is."""
    if spot.live is not None:
        spot.live.attach()
        try:
            yield
        finally:
            spot.live.detach()
    elif spot.is_open:
        with context.attendance.reading(spot.stream):
            yield
    else:
        yield


async def stay() -> dict[str, str]:
    """The client's leaving is not heard here."""
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}


async def _nowhere(_: object) -> None:
    """Nobody waits for the answer."""
