"""PostgreSQL: two batches on their way at once, each on a connection of its own."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.model import Ending, EventKind, StreamState
from mcp_persist_middleware.testing.contract.builders import numbers
from tests.contract.lanes import FRAME, FULL, begun
from tests.contract.postgres import somebody, waits_for_a_lock
from tests.support import stores
from tests.support.scripted import until
from tests.support.stores import Store

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A database of this test's own."""
    return stores.postgres(tmp_path, request.getfixturevalue)


@pytest.fixture
async def writer(log: EventLog) -> AsyncIterator[Writer]:
    """A writer that gives an outage 2 seconds."""
    made = Writer(log, 2.0)
    made.start()
    yield made
    await made.aclose(10)


async def test_a_batch_that_is_held_up_holds_up_its_own_streams_alone(
    log: EventLog, writer: Writer, store: Store
) -> None:
    held, free = await begun(writer), await begun(writer)
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await them.execute("SELECT 1 FROM mcp_stream WHERE id = $1 FOR UPDATE", held.record.id)
        await writer.append(held, [(EventKind.NOISE, FRAME)])
        await waits_for_a_lock(them)
        more = [
            asyncio.create_task(writer.append(stream, [(EventKind.NOISE, FRAME)] * FULL))
            for stream in (held, free)
        ]
        await until(lambda: free.committed == FULL)
        assert (held.committed, held.last) == (0, 1 + FULL), "its next events wait for the first"
        await them.execute("COMMIT")
    await asyncio.gather(*more)
    await until(lambda: held.committed == held.last)
    assert await numbers(log, held.record) == list(range(1, FULL + 2))
    assert await numbers(log, free.record) == list(range(1, FULL + 1))


async def test_an_outage_with_two_batches_on_their_way_is_one_outage(
    log: EventLog, writer: Writer, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    streams = [await begun(writer), await begun(writer)]
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await them.execute("SELECT 1 FROM mcp_stream FOR UPDATE")
        await writer.append(streams[0], [(EventKind.NOISE, FRAME)])
        await waits_for_a_lock(them)
        full = asyncio.create_task(writer.append(streams[1], [(EventKind.NOISE, FRAME)] * FULL))
        await waits_for_a_lock(them, 2)
        await until(lambda: all(stream.degraded for stream in streams))
        await full
        for stream in streams:
            await writer.append(stream, [(EventKind.RESPONSE, b"data: answer\r\n")])
            now = time.time()
            writer.end(stream, Ending(StreamState.COMPLETE, stream.last, now, now + 60))
        await them.execute("COMMIT")
    await until(lambda: not writer.live)
    await until(lambda: f"{log.name} is back." in caplog.text)
    assert caplog.text.count("until it is back") == caplog.text.count(f"{log.name} is back.") == 1
    for stream in streams:
        kept = await log.read(stream.record.id, 0, 100, 1 << 20)
        # Before it stands how many events were not logged, if there were any.
        (answer,) = (event for event in kept if event.kind is EventKind.RESPONSE)
        assert answer.frame.endswith(b"data: answer\r\n")
        assert [event.sequence for event in kept] == list(range(1, len(kept) + 1))
