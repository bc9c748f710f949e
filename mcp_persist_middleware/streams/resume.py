"""A request with a cursor: what the caller may see of what it has not seen."""

import contextlib
import dataclasses

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.asgi import place_of, responses
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.errors import StoreError, TooManyWaitError
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.takeover import rewound
from mcp_persist_middleware.model import SessionKey, StreamKind, StreamRecord, StreamState
from mcp_persist_middleware.protocol import classify, event_id, headers
from mcp_persist_middleware.streams import authorise, listen, rerun
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.deliver import Delivery
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.read_point import ReadPoint


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
        if record is not None and (left := await context.takeover.left(record)) is not None:
            if context.draining:
                await later(context, send, "the server is about to stop")
                return None
            if rerun.is_wanted(context, record):
                _count(scope, "run again")
                return record
            record = await context.takeover.end(record, left)
        if record is not None:
            position = await rewound(context.log, position, record)
            request = dataclasses.replace(request, cursor=position)
    except (StoreError, TooManyWaitError) as error:
        await _put_off(context, scope, error, send)
        return None
    await _answer(context, app, scope, request, record, receive, send)
    return None


async def _answer(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    record: StreamRecord | None,
    receive: Receive,
    send: Send,
) -> None:
    """Answer a cursor into a stream that is as it is; None is an unknown one."""
    position = request.cursor
    assert position is not None
    live = context.writer.live.get(position.stream)
    if record is None:
        _count(scope, "unknown")
        await _unknown(context, app, scope, request, receive, send)
    elif record.kind is StreamKind.GET:
        await _listen(context, app, scope, request, record, receive, send)
    elif live is None and _is_over(position, record):
        _count(scope, "consumed")
        await responses.read_to_the_end(send)
    else:
        _count(scope, "resumed")
        with telemetry.replay_span(record.trace, context.member.name):
            await _continue(context, scope, request, record, live, Client(receive), send)


def _count(scope: Scope, outcome: str) -> None:
    telemetry.resumes.add(1, {"namespace": place_of(scope).namespace, "outcome": outcome})


async def _listen(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    record: StreamRecord,
    receive: Receive,
    send: Send,
) -> None:
    """Go on in the session's own stream; from its end on, where the application opens it again."""
    position = request.cursor
    assert position is not None
    live = context.writer.live.get(record.id)
    is_at_end = position.sequence >= record.last_sequence
    if live is None and record.state is not StreamState.OPEN and is_at_end:
        _count(scope, "consumed")
        await listen.serve_stream(context, app, scope, request, receive, send)
        return
    _count(scope, "resumed")
    owner = record.owner
    key = SessionKey(owner.namespace, owner.path, owner.session)
    point = _point(position, record, live)
    with telemetry.replay_span(record.trace, context.member.name):
        await listen.follow(context, key, point, scope, request.era, Client(receive), send)


async def go_on(
    context: Context, scope: Scope, request: classify.Request, receive: Receive, send: Send
) -> None:
    """Read on in a stream whose request has been run again, or has ended meanwhile."""
    position = request.cursor
    assert position is not None
    live = context.writer.live.get(position.stream)
    record = live.record if live is not None else await context.log.find(position.stream)
    if record is None:
        await responses.read_to_the_end(send)
    else:
        position = await rewound(context.log, position, record)
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
    point = _point(position, record, live)
    with point.present(context):
        await Delivery(context, point, request.era).run(scope, client.receive, send)


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


def _is_over(position: event_id.Position, record: StreamRecord) -> bool:
    """Whether a client has seen a stream to its end."""
    return record.state is not StreamState.OPEN and position.sequence == record.last_sequence


def _point(position: event_id.Position, record: StreamRecord, live: LiveStream | None) -> ReadPoint:
    ids = event_id.EventIds.of(record.id, record.kind, position.request_id)
    after, is_open = _start(position, record, live), record.state is StreamState.OPEN
    session = record.owner.session
    head = [(headers.SESSION_ID, session.encode("latin-1"))] if session else []
    # One of an epoch that the store has forgotten has what came before it, and no more is known.
    given = min(position.epoch, record.epoch)
    return ReadPoint(ids, after, live, is_open, record.epoch, given, head=head)


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
    text = "The stream of this request is unknown or has expired"
    await responses.end_calls(send, [position.request_id], text)


async def _put_off(
    context: Context, scope: Scope, error: StoreError | TooManyWaitError, send: Send
) -> None:
    if isinstance(error, StoreError):
        _count(scope, "store failure")
        await later(context, send)
    else:
        _count(scope, "put off")
        await later(context, send, "too many wait for streams that are not known yet")


async def later(context: Context, send: Send, why: str = "the store is unavailable") -> None:
    """Nothing can be said now: the client is to come back."""
    await responses.come_back(send, context.settings.retry_ms, why)


async def foreign_cursor(context: Context, app: ASGIApp, scope: Scope, send: Send) -> None:
    """A cursor that no stream of ours ever gave."""
    verdict = await authorise.ask(context, app, scope)
    if verdict.refused:
        await verdict.pass_on(send)
        return
    text = "Last-Event-ID names no stream of this server; begin anew without it"
    await responses.not_found(send, text)
