"""The one stream of a session's own (GET): where it runs, how it goes on."""

import asyncio
import contextlib
import logging

from starlette.types import Scope

from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import Place, SessionKey, StreamKind
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.subscribers import Subscribers
from mcp_persist_middleware.supervision import said

logger = logging.getLogger(__name__)

# A store that fails is asked again after so many seconds.
_TRY_AGAIN = 0.1


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
    where none has begun, where it is somebody else's, or where the store does not tell in time."""
    owner = caller.owner
    trouble: Exception = TimeoutError()
    turns = context.subscribers.of(SessionKey(owner.namespace, owner.path, owner.session))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(context.settings.store_timeout):
            while owner.session and not context.writer.is_down:
                try:
                    async with turns.going_on:
                        return await _next_epoch(context, caller, turns)
                except StoreError as error:
                    trouble = error
                await asyncio.sleep(_TRY_AGAIN)
            return None
    logger.warning(
        "MPM-SESSION-15: A session's stream does not go on, and another one begins: %s",
        said(trouble),
    )
    return None


async def _next_epoch(context: Context, caller: Caller, turns: Subscribers) -> LiveStream | None:
    state = await turns.look()
    if state is None or not state.stream:
        return None
    while (live := context.writer.live.get(state.stream)) is not None and not live.degraded:
        # What was written here lands first.
        await live.signal.wait(context.settings.store_timeout)
    record = await context.log.find(state.stream)
    if record is None or record.kind is not StreamKind.GET or not await caller.owns(record.owner):
        return None
    return await context.takeover.go_on(record, given=turns.read_in(record.id))
