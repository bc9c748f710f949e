"""Removing many streams, a page and a step at a time, beside whoever writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from mcp_persist_middleware.log.base import EventLog, Purged
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import StreamRecord

_EVENTS = 500
# Whoever writes goes first: for at least so long (seconds), and for as long as a step took.
_PAUSE = 0.01


async def pages(log: EventLog, whose: Whose, size: int) -> AsyncIterator[Sequence[StreamRecord]]:
    """The streams that belong to somebody, so many at a time, the oldest first.

    Raises:
        StoreError: the store does not list them.
    """
    after = b""
    while page := await log.streams_of(whose, after, size):
        after = page[-1].id
        yield page


async def steps(log: EventLog, streams: Sequence[bytes], *, ended: bool) -> AsyncIterator[Purged]:
    """Remove streams; what each step has removed. With `ended`, one that is open is left alone.

    Raises:
        StoreError: the store does not remove them.
    """
    more = bool(streams)
    while more:
        began = time.monotonic()
        step = await log.remove(streams, _EVENTS, ended=ended)
        took, more = time.monotonic() - began, step.more
        yield step
        await asyncio.sleep(max(_PAUSE, took))
