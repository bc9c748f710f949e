"""How a stream is ended whose worker is there and may go on writing."""

from collections.abc import Callable

from mcp_persist_middleware.log import takeover
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import StreamRecord, StreamState, StreamWrite


async def stop(
    log: EventLog,
    record: StreamRecord,
    ttl: float,
    by: str,
    why: str,
    on_failed: Callable[[StreamRecord], None] | None = None,
    /,
    **data: object,
) -> StreamRecord | None:
    """As `takeover.end`. A writer that has always written more since its stream was read is fenced
    first: nobody writes too fast to be stopped.

    Args:
        by: the worker that the stream has in between; with "", its own.

    Raises:
        StoreError: the store does not answer.
    """
    found = await takeover.end(log, record, ttl, None, why, on_failed, **data)
    if found is None or found.state is not StreamState.OPEN:
        return found
    fence = StreamWrite(found.id, found.epoch + 1, takes_over=found.epoch, worker=by or None)
    await log.append([fence])
    found = await log.find(found.id)
    if found is None or found.state is not StreamState.OPEN:
        return found
    return await takeover.end(log, found, ttl, None, why, on_failed, **data)
