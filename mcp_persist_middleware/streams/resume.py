"""A request with a cursor: what the caller may see of what it has not seen."""

import contextlib
import dataclasses

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.errors import StoreError, TooManyWaitError
from mcp_persist_middleware.log import orphans
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.membership.peers import PeerStatus
from mcp_persist_middleware.model import SessionKey, StreamKind, StreamRecord, StreamState
from mcp_persist_middleware.protocol import classify, event_id, headers, jsonrpc, sse
from mcp_persist_middleware.streams import authorise, chain, listen, rerun, serve
from mcp_persist_middleware.streams.client import Client
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.deliver import Delivery
from mcp_persist_middleware.streams.ownership import Caller

_PAGE_EVENTS, _PAGE_BYTES = 256, 1024 * 1024


async def resume(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    receive: Receive,
    send: Send,
) -> StreamRecord | None:
    """Answer a cursor. Whether its stream exists for somebody else changes nothing.

    Returns the stream instead if its request is to be run again; nothing has been sent then.
    """
    position = request.cursor
    assert position is not None
    verdict = await authorise.ask(context, app, scope)
    if verdict.refused:
        _count(scope, "refused")
        await verdict.pass_on(send)
        return None
    try:
        record = await _find(context, position, verdict.caller)
        if record is not None and (left := await _left_behind(context, record)) is not None:
            if context.draining:
                await later(context, "the server is about to stop")(scope, receive, send)
                return None
            if rerun.is_wanted(context, record):
                _count(scope, "run again")
                return record
            ttl = context.settings.kept_for(record.owner)
            record = await orphans.end(context.log, record, ttl, left.seen_at)
        if record is not None:
            position = await _rewound(context.log, position, record)
            request = dataclasses.replace(request, cursor=position)
    except (StoreError, TooManyWaitError) as error:
        await _put_off(context, scope, error)(scope, receive, send)
        return None
    live = context.writer.live.get(position.stream)
    if record is None:
        _count(scope, "unknown")
        await _unknown(context, app, scope, request, receive, send)
    elif record.kind is StreamKind.GET:
        await _listen(context, app, scope, request, verdict.caller, record, receive, send)
    elif live is None and _is_over(position, record):
        _count(scope, "consumed")
        await Response(status_code=204)(scope, receive, send)
    else:
        _count(scope, "resumed")
        with telemetry.replay_span(record.trace):
            await _continue(context, scope, request, record, live, Client(receive), send)
    return None


def _count(scope: Scope, outcome: str) -> None:
    telemetry.resumes.add(1, {"namespace": place_of(scope).namespace, "outcome": outcome})


async def _listen(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    caller: Caller,
    record: StreamRecord,
    receive: Receive,
    send: Send,
) -> None:
    """Go on in the session's own stream, in the next segment at the end of one."""
    position = request.cursor
    assert position is not None
    live = context.writer.live.get(record.id)
    try:
        spot = await chain.spot_after(context, caller, record.id, position.sequence)
    except StoreError:
        await later(context)(scope, receive, send)
        return
    if spot is None and (live is not None or not _is_over(position, record)):
        is_open = record.state is StreamState.OPEN
        after = _start(position, record, live)
        spot = chain.ResumePoint(record.id, after, live, is_open, record.epoch)
    if spot is None:
        _count(scope, "consumed")
        await listen.serve_stream(context, app, scope, request, receive, send)
        return
    _count(scope, "resumed")
    owner = record.owner
    key = SessionKey(owner.namespace, owner.path, owner.session)
    with telemetry.replay_span(record.trace):
        await listen.follow(context, key, spot, scope, request.era, Client(receive), send)


async def go_on(
    context: Context, scope: Scope, request: classify.Request, receive: Receive, send: Send
) -> None:
    """Read on in a stream whose request has been run again, or has ended meanwhile."""
    position = request.cursor
    assert position is not None
    live = context.writer.live.get(position.stream)
    record = live.record if live is not None else await context.log.find(position.stream)
    if record is None:
        await Response(status_code=204)(scope, receive, send)
    else:
        position = await _rewound(context.log, position, record)
        request = dataclasses.replace(request, cursor=position)
        await _continue(context, scope, request, record, live, Client(receive), send)


async def _continue(
    context: Context,
    scope: Scope,
    request: classify.Request,
    record: StreamRecord,
    live: LiveStream | None,
    client: Client,
    send: Send,
) -> None:
    position = request.cursor
    assert position is not None
    after = _start(position, record, live)
    session = record.owner.session
    delivery = Delivery(
        context,
        Cursor(
            context.reads,
            record.id,
            after,
            live,
            resumed=True,
            epoch=record.epoch,
        ),
        record.id,
        event_id.EventIds.of(record.id, record.kind, position.request_id),
        record.epoch,
        record.kind,
        retry_ms=serve.retry_of(context, request.era),
        priming=request.era.priming,
        resumed=True,
        head=[(headers.SESSION_ID, session.encode("latin-1"))] if session else [],
    )
    spot = chain.ResumePoint(record.id, after, live, record.state is StreamState.OPEN)
    with listen.present(context, spot):
        await delivery.run(scope, client.receive, send)


async def _find(
    context: Context, position: event_id.Position, caller: Caller
) -> StreamRecord | None:
    """The stream of a cursor if it is the caller's. Of a young cursor whatever else is known
    changes nothing until its stream must have been committed.

    Raises:
        StoreError: the store does not answer.
        TooManyWaitError: nothing can be said of a young cursor now.
    """
    stream, timeout = position.stream, context.settings.store_timeout
    settled, number = event_id.created_at(stream) + timeout, 0
    live = context.writer.live.get(stream)
    record = live.record if live is not None else await context.log.find(stream)
    with contextlib.ExitStack() as stack:
        while record is None or not await _is_meant(position, record, caller):
            left = settled - context.log.now()
            if not 0 < left <= timeout + 1:
                return None
            if not number:
                stack.enter_context(context.newborn.waiting(caller.account))
            number += 1
            record = await context.newborn.look(stream, number, left)
            if (live := context.writer.live.get(stream)) is not None:
                # Whose a stream is that began early its writer knows before the store does.
                record = live.record
    is_kept = record.expires_at is None or record.expires_at > context.log.now()
    return record if is_kept else None


async def _is_meant(position: event_id.Position, record: StreamRecord, caller: Caller) -> bool:
    return record.kind is position.kind and await caller.owns(record.owner)


async def _left_behind(context: Context, record: StreamRecord) -> PeerStatus | None:
    """What is known of a stream's worker if it is gone and the stream is still open."""
    if record.state is not StreamState.OPEN or record.id in context.writer.live:
        return None
    if record.worker == context.worker:
        return PeerStatus(gone=True, seen_at=context.log.now())
    verdict = await context.peers.verify(record.worker)
    return verdict if verdict.gone else None


async def _rewound(
    log: EventLog, position: event_id.Position, record: StreamRecord
) -> event_id.Position:
    """A cursor behind the last event of its epoch that the store has. A worker may have died with
    events that only its client has seen; then a later epoch has given their numbers again.

    Raises:
        StoreError: the store does not answer.
    """
    if not position.sequence or position.epoch >= record.epoch:
        return position
    found = await log.read(record.id, position.sequence - 1, 1, 1)
    if found and found[0].sequence == position.sequence and found[0].epoch <= position.epoch:
        return position
    after = 0
    while page := await log.read(record.id, after, _PAGE_EVENTS, _PAGE_BYTES):
        for event in page:
            if event.epoch > position.epoch:
                first = min(position.sequence, event.sequence - 1)
                return dataclasses.replace(position, sequence=first)
        after = page[-1].sequence
    return position


def _is_over(position: event_id.Position, record: StreamRecord) -> bool:
    """Whether a client has seen a stream to its end."""
    return record.state is not StreamState.OPEN and position.sequence == record.last_sequence


def _start(position: event_id.Position, record: StreamRecord, live: LiveStream | None) -> int:
    """Where to go on. A cursor ahead of the stream's end is from instants that were lost: its
    client gets the end of the stream, that is, the answer. One ahead of what the stream's writer
    knows to be committed may be of what the store has, and the writer is about to hear."""
    if live is not None:
        return min(position.sequence, live.last)
    if record.state is not StreamState.OPEN and position.sequence > record.last_sequence:
        return max(0, record.last_sequence - 1)
    return position.sequence


async def _unknown(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    receive: Receive,
    send: Send,
) -> None:
    """An unknown cursor of a POST ends its call with an error: an HTTP error would leave most
    clients hanging until their own timeout."""
    position = request.cursor
    assert position is not None
    if position.kind is StreamKind.GET:
        await listen.serve_stream(context, app, scope, request.anew(), receive, send)
        return
    error = jsonrpc.error(
        position.request_id,
        "The stream of this request is unknown or has expired",
        {"resumable": False},
        jsonrpc.INTERRUPTED,
    )
    body = sse.event(error) + sse.CRLF
    response = Response(body, media_type="text/event-stream")
    response.raw_headers = headers.stream_head([(b"content-type", headers.EVENT_STREAM)])
    await response(scope, receive, send)


def _put_off(context: Context, scope: Scope, error: StoreError | TooManyWaitError) -> Response:
    if isinstance(error, StoreError):
        _count(scope, "store failure")
        return later(context)
    _count(scope, "put off")
    return later(context, "too many wait for streams that are not known yet")


def later(context: Context, why: str = "the store is unavailable") -> Response:
    """Nothing can be said now: an empty stream with a `retry` brings the client back."""
    body = sse.comment(why) + sse.retry(context.settings.retry_ms)
    response = Response(body)
    response.raw_headers = headers.stream_head([])
    return response


async def foreign_cursor(context: Context, app: ASGIApp, scope: Scope, send: Send) -> None:
    """A cursor that no stream of ours ever gave."""
    verdict = await authorise.ask(context, app, scope)
    if verdict.refused:
        await verdict.pass_on(send)
        return
    text = "Last-Event-ID names no stream of this server; begin anew without it"

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    await PlainTextResponse(text, status_code=404)(scope, receive, send)
