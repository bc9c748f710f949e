"""The session's own stream (GET): one of the application's, held by us, and whoever reads it.

It is one stream for as long as the session lives, in a new epoch each time that the session's home
opens the application's. A connection without a cursor goes on behind the last event that was
written to any client.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware import asgi, rarely
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import Client, nowhere, stay
from mcp_persist_middleware.errors import SessionElsewhereError, StoreError
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.takeover import rewound
from mcp_persist_middleware.model import SessionKey
from mcp_persist_middleware.protocol import classify, headers
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.protocol.event_id import Position
from mcp_persist_middleware.streams import authorise, expiry, identity, serve
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.deliver import Delivery
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.streams.read_point import ReadPoint
from mcp_persist_middleware.streams.session_stream import key_of, running_of
from mcp_persist_middleware.streams.state import Opened
from mcp_persist_middleware.streams.subscribers import Subscribers
from mcp_persist_middleware.supervision import scoped

logger = rarely.logger(__name__)

# How long a request that brought its session back waits for the session's stream to open.
_OPEN_SECONDS = 2.0
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
        point = await find(context, app, scope, request, client, send)
        if point is not None:
            key = key_of(scope, request.session)
            await follow(context, key, point, scope, request.era, client, send)
    finally:
        client.close()


async def find(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    client: Client,
    send: Send,
) -> ReadPoint | None:
    """Where a GET goes on in the session's stream; None when it has had the application's own
    answer.

    The application has one such stream for each session, and we hold it; a second one would be
    refused (409) while a dead proxy keeps the first.
    """
    key = key_of(scope, request.session)
    turns = context.subscribers.of(key)
    async with _opening(turns, client) as is_ours:
        if not is_ours:
            return None
        running = running_of(context, key)
        if running is None:
            opened = await _begin(context, app, scope, request, client, send)
            if opened is None:
                return None
            stream, cursor = opened.stream, request.cursor
            point = await _point(context, key, cursor, stream, stream.inherited)
            return replace(point, resumed=stream.inherited > 0, head=opened.head)
    verdict = await authorise.ask(context, app, scope)
    if verdict.refused or not await verdict.caller.owns(running.record.owner):
        if verdict.answer.status < 300:
            # What was asked is not what the client asks: an application that lets anybody into a
            # session still has one such stream for it.
            await asgi.refuse(send, 409, _TAKEN)
        else:
            await verdict.pass_on(send)
        return None
    return await _point(context, key, request.cursor, running, running.last)


@contextlib.asynccontextmanager
async def _opening(turns: Subscribers, client: Client) -> AsyncIterator[bool]:
    """Be the one connection that opens the application's stream; false when its client has left
    while it waited for another that does."""
    with scoped(turns.opening.acquire(), "mcp-persist-opening") as acquiring:
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


async def _point(
    context: Context, key: SessionKey, cursor: Position | None, live: LiveStream, old: int
) -> ReadPoint:
    """Behind what a client has seen: the one that asks, if it has a cursor, else the last one. To
    that one the server's requests up to `old` are not put: whoever was asked is gone."""
    stream, turns = live.record.id, context.subscribers.of(key)
    if cursor is not None and cursor.stream == stream:
        with contextlib.suppress(StoreError):
            cursor = await rewound(context.log, cursor, live.record)
        return _at(live, cursor.sequence)
    try:
        await turns.look()
    except StoreError as error:
        logger.warning(
            "MPM-SESSION-11: How far a session's stream was read is not known: %s", error
        )
    return replace(_at(live, turns.read_in(stream)), suppress_requests_through=old)


def _at(live: LiveStream, after: int) -> ReadPoint:
    return ReadPoint(live.ids, min(after, live.last), live, epoch=live.record.epoch)


async def _begin(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    client: Client,
    send: Send,
) -> Opened | None:
    """Open the application's stream: the session's goes on with it, or begins."""
    running = Exchange(context, app, scope, request, send)
    body = Body([{"type": "http.request", "body": b"", "more_body": False}], complete=True)
    opened = await serve.begin(context, running, body, client, send)
    if opened is None:
        return None
    running.join_session()
    # From now on only a reader keeps it from being alone.
    opened.stream.detach()
    if running.scope:  # it has ended otherwise
        expiry.note(context.settings, scope, running.scope)
    record = opened.stream.record
    key = SessionKey(record.owner.namespace, record.owner.path, record.owner.session)
    try:
        if not opened.stream.inherited:
            await context.log.sessions.begin_stream(key, record.id)
    except StoreError as error:
        logger.warning("MPM-SESSION-12: The session of a stream does not know it: %s", error)
    return opened


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
    if stream_state is None or not stream_state.stream:
        return
    request = classify.Request(classify.RequestKind.STREAM, era, key.id)
    client = Client(stay)
    try:
        async with asyncio.timeout(_OPEN_SECONDS), turns.opening:
            if running_of(context, key) is None:
                asked = asgi.question(scope, "GET")
                asked["headers"] = headers.replaced(asked["headers"], headers.SESSION_ID, key.id)
                await _begin(context, app, asked, request, client, nowhere)
    except SessionElsewhereError:
        return
    except TimeoutError:
        logger.warning(
            "MPM-SESSION-13: The stream of a session that was brought back does not open"
        )
    except Exception:
        # It is not what was asked for, and must not spoil that.
        logger.exception(
            "MPM-APP-02: The application raised when a session's stream was to be opened again"
        )
    finally:
        client.close()


async def follow(
    context: Context,
    key: SessionKey,
    point: ReadPoint,
    scope: Scope,
    era: Era,
    client: Client,
    send: Send,
) -> None:
    """Read a session's stream from a point on, as its newest connection."""
    live = point.live
    known = live.record.owner.principal if live is not None else identity.credential(context, scope)
    account = asgi.account_of(scope, known)
    subscriber = await context.subscribers.of(key).take()
    if not point.head:
        point = replace(point, head=[(headers.SESSION_ID, key.id.encode("latin-1"))])
    try:
        with point.present(context), context.crowd.waiting(account, subscriber.end):
            await Delivery(context, point, era, subscriber).run(scope, client.receive, send)
    finally:
        subscriber.leave()
