"""The one stream of a session's own (GET): where it runs, how it goes on, where a reader begins."""

import asyncio
import logging
from dataclasses import dataclass

from starlette.types import Scope

from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import Place, SessionKey, StreamKind
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller

logger = logging.getLogger(__name__)


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


def running_of(context: Context, key: SessionKey) -> LiveStream | None:
    """The session's stream as it runs here."""
    running = context.session_streams.get((Place(key.namespace, key.path), key.id))
    stream = running.stream if running is not None else None
    return None if stream is None or stream.ended else stream


async def next_epoch(context: Context, caller: Caller) -> LiveStream | None:
    """The stream of the caller's session, to go on here: this worker is the session's home. None
    where none has begun, where it is somebody else's, or where the store does not tell."""
    owner = caller.owner
    turns = context.subscribers.of(SessionKey(owner.namespace, owner.path, owner.session))
    if not owner.session or context.writer.is_down:
        return None
    try:
        async with asyncio.timeout(context.settings.store_timeout):
            state = await turns.look()
            if state is None or not state.stream:
                return None
            await _landed(context, state.stream)
            record = await context.log.find(state.stream)
            if record is None or record.kind is not StreamKind.GET:
                return None
            if not await caller.owns(record.owner):
                return None
            return await context.takeover.go_on(record, given=turns.read_in(record.id))
    except (StoreError, TimeoutError) as error:
        logger.warning("A session's stream does not go on, and another one begins: %s", error)
        return None


async def _landed(context: Context, stream: bytes) -> None:
    """What this worker wrote of a stream is in the store."""
    while (live := context.writer.live.get(stream)) is not None and not live.degraded:
        await live.signal.wait(context.settings.store_timeout)
