"""The segments of a session's own stream, one after the other, on whichever worker."""

from dataclasses import dataclass

from starlette.types import Scope

from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import Place, SessionKey, StreamRecord, StreamState
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a connection begins to read."""

    stream: bytes
    after: int
    live: LiveStream | None = None
    """The stream itself when it is written here."""
    is_open: bool = True
    epoch: int = 1
    suppress_requests_through: int = 0
    """Requests of the server up to this event are too old for it."""
    resumed: bool = True
    head: headers.RawHeaders = ()


def key_of(scope: Scope, session: str) -> SessionKey:
    """The session of a request."""
    return SessionKey(*place_of(scope), session)


async def spot_after(
    context: Context, caller: Caller, stream: bytes, sequence: int
) -> ResumePoint | None:
    """The first spot in a session's chain behind an event where anything is still to come; None
    when there is none, or the chain does not know that event.

    Raises:
        StoreError: the store does not answer.
    """
    owner = caller.owner
    key = SessionKey(owner.namespace, owner.path, owner.session)
    stream_state = await context.subscribers.of(key).look()
    chain = list(stream_state.segments) if stream_state is not None else []
    running = running_of(context, key)
    if running is not None and running.record.id not in chain:
        chain.append(running.record.id)
    if stream not in chain:
        return None
    for segment in chain[chain.index(stream) :]:
        after = sequence if segment == stream else 0
        live = context.writer.live.get(segment)
        record = live.record if live is not None else await context.log.find(segment)
        # An application may let others into a session: their streams are in the chain as well.
        if record is None or not await caller.owns(record.owner):
            continue
        if live is not None:
            return at(live, after)
        record = await _ended(context, record)
        is_open = record is not None and record.state is StreamState.OPEN
        # One that is open and has a successor belongs to a home that has lost the session.
        if is_open and segment != chain[-1]:
            is_open = bool(await context.log.read(segment, after, 1, 1))
        if record is not None and (is_open or after < record.last_sequence):
            return ResumePoint(segment, after, None, record.state is StreamState.OPEN, record.epoch)
    return None


async def _ended(context: Context, record: StreamRecord) -> StreamRecord | None:
    """A segment; its end when its worker is gone."""
    left = await context.takeover.left(record)
    return record if left is None else await context.takeover.end(record, left)


def at(live: LiveStream, after: int) -> ResumePoint:
    """A spot in a stream that is written here."""
    epoch = live.record.epoch
    return ResumePoint(live.record.id, min(after, live.last), live, is_open=True, epoch=epoch)


def running_of(context: Context, key: SessionKey) -> LiveStream | None:
    """The session's stream as it runs here."""
    running = context.session_streams.get((Place(key.namespace, key.path), key.id))
    return running.stream if running is not None else None
