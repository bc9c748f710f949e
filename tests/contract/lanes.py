"""Streams as the tests of the writer's lanes begin them."""

from mcp_persist_middleware.log.live import Limits, LiveStream
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.testing.contract.builders import record
from tests.support.scripted import until

FRAME = b"data: x\r\n"
FULL = 64
"""So many events fill a stream."""


def fresh() -> LiveStream:
    """A stream that nothing has been written to."""
    made = record()
    limits = Limits(FULL, 1 << 20, 10_000, 1 << 26)
    return LiveStream(made, EventIds.of(made.id, made.kind, 1), limits)


async def begun(writer: Writer) -> LiveStream:
    """A stream that is in the store."""
    stream = fresh()
    writer.open(stream)
    await until(lambda: stream.created)
    return stream
