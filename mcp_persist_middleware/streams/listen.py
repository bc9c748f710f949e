"""The session's own stream (GET): one of the application's, held by us, and whoever reads it.

It is a chain of segments, one for each time that the session's home opened it. A cursor at the end
of a segment goes on in the next; a connection without a cursor goes on behind the last event that
was written to any client.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import Client, nowhere, stay
from mcp_persist_middleware.errors import SessionElsewhereError, StoreError
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.model import SessionKey, StreamKind
from mcp_persist_middleware.protocol import classify, headers
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.streams import authorise, chain, serve
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.deliver import Delivery
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.streams.subscribers import Subscribers

logger = logging.getLogger(__name__)

# How long a request that brought its session back waits for the session's stream to open.
_OPEN_SECONDS = 2.0
_ALL = 1 << 53
_TAKEN = "Conflict: the stream of this session is somebody else's"


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
            key = chain.key_of(scope, request.session)
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
) -> chain.ResumePoint | None:
    """Where a GET goes on, in the session's stream as it runs or in a new one; None when it has
    had the application's own answer.

    The application has one such stream for each session, and we hold it; a second one would be
    refused (409) while a dead proxy keeps the first.
    """
    key = chain.key_of(scope, request.session)
    turns = context.subscribers.of(key)
    async with _opening(turns, client) as is_ours:
        if not is_ours:
            return None
        running = chain.running_of(context, key)
        if running is None:
            begun = await _begin(context, app, scope, request, client, send)
            if begun is None or begun.stream is None:
                return None
            opened = begun.opened.result()
            head = opened.head if opened is not None else ()
            first = replace(chain.at(begun.stream, 0), resumed=False, head=head)
            caller = Caller(context, app, scope, begun.stream.record.owner)
            spot = await _behind(context, key, request, caller, first)
            return first if spot.stream == first.stream else spot
    verdict = await authorise.ask(context, app, scope)
    if verdict.refused or not await verdict.caller.owns(running.record.owner):
        if verdict.answer.status < 300:
            # What was asked is not what the client asks: an application that lets anybody into a
            # session still has one such stream for it.
            await asgi.refuse(send, 409, _TAKEN)
        else:
            await verdict.pass_on(send)
        return None
    return await _behind(context, key, request, verdict.caller, chain.at(running, 0))


@contextlib.asynccontextmanager
async def _opening(turns: Subscribers, client: Client) -> AsyncIterator[bool]:
    """Be the one connection that opens the application's stream; false when its client has left
    while it waited for another that does."""
    acquiring = asyncio.ensure_future(turns.opening.acquire())
    try:
        if turns.opening.locked():
            waiting: set[asyncio.Future[Any]] = {acquiring, client.watch()}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        else:
            await acquiring
        yield acquiring.done()
    finally:
        if acquiring.done() and not acquiring.cancelled():
            turns.opening.release()
        acquiring.cancel()


async def _behind(
    context: Context,
    key: SessionKey,
    request: classify.Request,
    caller: Caller,
    otherwise: chain.ResumePoint,
) -> chain.ResumePoint:
    """Behind what a client has seen: the one that asks, if it has a cursor, else the last one."""
    turns, cursor = context.subscribers.of(key), request.cursor
    try:
        stream_state = await turns.look()
        segments = stream_state.segments if stream_state is not None else ()
        if cursor is not None and cursor.stream in segments:
            found = await chain.spot_after(context, caller, cursor.stream, cursor.sequence)
            return found or otherwise
        found = None
        if turns.stream:
            at = turns.stream, turns.sequence
            found = await chain.spot_after(context, caller, *at)
    except StoreError as error:
        logger.warning("How far a session's stream was read is not known: %s", error)
        found = None
    spot = found or otherwise
    # Whoever asked in an older segment is gone.
    old = spot.live.last if spot.live is not None else _ALL
    return replace(spot, suppress_requests_through=old)


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
    opened = await serve.begin(context, running, body, client, send)
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
    turns = context.subscribers.of(key)
    try:
        stream_state = await turns.look()
    except StoreError:
        return
    if stream_state is None or not stream_state.segments:
        return
    request = classify.Request(classify.Kind.STREAM, era, key.id)
    client = Client(stay)
    try:
        async with asyncio.timeout(_OPEN_SECONDS), turns.opening:
            if chain.running_of(context, key) is None:
                asked = asgi.question(scope, "GET")
                asked["headers"] = headers.replaced(asked["headers"], headers.SESSION_ID, key.id)
                await _begin(context, app, asked, request, client, nowhere)
    except SessionElsewhereError:
        return
    except TimeoutError:
        logger.warning("The stream of a session that was brought back does not open")
    except Exception:
        # It is not what was asked for, and must not spoil that.
        logger.exception("The application raised when a session's stream was to be opened again")
    finally:
        client.close()


async def follow(
    context: Context,
    key: SessionKey,
    spot: chain.ResumePoint,
    scope: Scope,
    era: Era,
    client: Client,
    send: Send,
) -> None:
    """Read a session's stream from a spot on, as its newest connection."""
    turns = context.subscribers.of(key)
    subscriber = await turns.take(suppress_requests_through=spot.suppress_requests_through)
    live = spot.live
    ids = live.ids if live is not None else EventIds.of(spot.stream, StreamKind.GET, None)
    head = spot.head or [(headers.SESSION_ID, key.id.encode("latin-1"))]
    try:
        delivery = Delivery(
            context,
            Cursor(
                context.reads,
                spot.stream,
                spot.after,
                live,
                resumed=spot.resumed,
                epoch=spot.epoch,
            ),
            spot.stream,
            ids,
            spot.epoch,
            StreamKind.GET,
            retry_ms=context.settings.retry_ms,
            priming=era.priming,
            resumed=spot.resumed,
            head=head,
            subscriber=subscriber,
        )
        with present(context, spot):
            await delivery.run(scope, client.receive, send)
    finally:
        subscriber.leave()


@contextlib.contextmanager
def present(context: Context, spot: chain.ResumePoint) -> Iterator[None]:
    """The worker that writes the stream knows of a reader, whichever worker that is."""
    if spot.live is not None:
        spot.live.attach()
        try:
            yield
        finally:
            spot.live.detach()
    elif spot.is_open:
        with context.reader_leases.reading(spot.stream):
            yield
    else:
        yield
