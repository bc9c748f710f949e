"""Tables under any name that the setting takes: every statement asks for those that were made."""

import asyncio
import dataclasses
import time
from pathlib import Path

import pytest

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import EnqueueResult, RelayRequest, RelayRequestId, RelayState
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    COMMITTED,
    FENCED,
    add,
    ending,
    events,
    new,
    record,
    session,
    settle,
    subscribed,
)
from tests.support import stores
from tests.support.stores import Store


@pytest.fixture(params=["MCP_Events_", "Ünfair_"])
def prefix(request: pytest.FixtureRequest) -> str:
    """The beginning of the tables' names."""
    return str(request.param)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Store:
    """A store of this test's own, with such tables."""
    made = stores.STORES[request.param](tmp_path, request.getfixturevalue)
    return dataclasses.replace(made, settings=made.settings | {"table_prefix": prefix})


async def test_streams_are_written_taken_over_trimmed_read_and_removed(
    log: EventLog, other: EventLog
) -> None:
    await log.ping()
    stream, beside = record(worker="gone"), record()
    assert await log.append([new(stream, *events(1, 2)), new(beside)]) == [COMMITTED] * 2
    assert await log.append([add(stream, *events(3, 2)), add(beside, *events(1, 1))]) == (
        [COMMITTED] * 2
    )
    assert await log.append([add(stream, *events(3, 2))]) == [COMMITTED], "it is a retry"
    assert await log.append([add(stream, *events(5, 1), trim=1)]) == [COMMITTED]
    assert set(await log.active_writers()) == {"gone", "one"}
    assert [each.id for each in await log.open_streams_of("gone", 10)] == [stream.id]
    await log.renew_readers([stream.id], 60.0)
    assert (await other.reader_ttl(stream.id) or 0.0) > 50.0
    takes = add(stream, *events(6, 1, epoch=2), epoch=2, takes_over=1, ending=ending(6))
    assert await other.append([takes]) == [COMMITTED]
    assert await log.append([add(stream, *events(6, 1))]) == [FENCED]
    assert [event.sequence for event in await log.read(stream.id, 0, *ALL)] == [2, 3, 4, 5, 6]
    await log.expire_session("default", "/mcp", "s")
    assert (await log.purge(time.time(), 100)).streams == 2
    assert await log.find(stream.id) is None


async def test_sessions_requests_and_workers_find_their_tables(
    log: EventLog, other: EventLog
) -> None:
    made = session(expires_at=time.time() + 60)
    assert await log.sessions.create(made)
    assert await other.sessions.find(made.key) == made
    await log.sessions.touch([made.key], time.time() + 90)
    await log.sessions.begin_stream(made.key, new_stream_id())
    assert await log.sessions.activate(made.key, 0, "one")
    until = time.time() + 60
    relayed = RelayRequest(new_stream_id(), made.key, "one", 1, until, b"?", sealed=False)
    assert await other.inbox.put(relayed, 10) is EnqueueResult.ENQUEUED
    assert [each.id for each in await log.inbox.claim("one", 10, 0.0, until)] == [relayed.id]
    assert await log.inbox.claimed("one") == [relayed.id]
    assert await log.inbox.answer(relayed.id, "one", b"!", until)
    found = await other.inbox.look(RelayRequestId(relayed.id, "one"))
    assert found is not None
    assert (found.state, found.reply) == (RelayState.REPLIED, b"!")
    await other.inbox.remove([relayed.name])
    assert await other.sessions.move(made.key, 1, "two")
    await log.sessions.delete(made.key, 1.0)
    assert await log.sessions.purge(time.time(), 10) == 1
    assert await log.inbox.purge(time.time(), 10) == 0
    table = log.worker_table()
    assert set(await table.look()) == {"one", "two"} == set(await log.workers())
    await table.aclose()
    assert await log.declare_dead("two", 1)


async def test_a_commit_elsewhere_wakes_its_reader(log: EventLog, other: EventLog) -> None:
    stream = record()
    await log.append([new(stream)])
    with subscribed(other, stream) as subscription:
        await settle(subscription)
        await log.append([add(stream, *events(1, 1))])
        async with asyncio.timeout(5):
            await subscription.wait()
