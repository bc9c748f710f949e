"""A row that a newer version wrote, or that is damaged, is trouble of its own stream, session,
relayed request or worker, and of nobody else."""

import json
import time
from typing import Any

import pytest
from sqlalchemy import text

from mcp_persist_middleware import erasure
from mcp_persist_middleware.errors import StoreError, UnreadableRowError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.codecs.coded import CodedLog
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.live import Limits
from mcp_persist_middleware.log.membership.failure_detector import FailureDetector
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.log.takeover import Takeover
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.maintenance.reaper import OrphanReaper
from mcp_persist_middleware.model import (
    EnqueueResult,
    EventKind,
    RelayRequest,
    RelayRequestId,
    StreamRecord,
    StreamState,
    WorkerState,
)
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.testing.contract.builders import (
    Factory,
    add,
    answer,
    ending,
    events,
    new,
    record,
    session,
)
from mcp_persist_middleware.testing.contract.cases.erasing import of
from tests.support.stores import Store


@pytest.fixture
def make_log(store: Store) -> Factory:
    """Logs as a worker has them: with what reads rows in front."""
    return lambda: CodedLog(store.make_log(), Settings.load({"url": "x"}, {}))


def named(stream: StreamRecord, dialect: str) -> str:
    """The id of a stream as SQL has it."""
    return {"sqlite": "x'{}'", "postgresql": "'\\x{}'::bytea"}[dialect].format(stream.id.hex())


async def change(store: Store, table: str, **values: Any) -> None:
    """What a newer version does to all rows of a table."""
    if "url" not in store.settings:
        pytest.skip("it has no SQL to look into")
    where = values.pop("where", "1 = 1")
    if (stream := values.pop("of", None)) is not None:
        where = f"id = {named(stream, 'sqlite' if 'sqlite' in store.url else 'postgresql')}"
    changed = ", ".join(f"{name} = :{name}" for name in values)
    async with store.connected() as outside:
        await outside.execute(text(f"UPDATE mcp_{table} SET {changed} WHERE {where}"), values)


@pytest.mark.parametrize("what", [{"codec": 9}, {"kind": 77}])
async def test_events_that_cannot_be_read_are_a_gap(
    log: EventLog, other: EventLog, store: Store, what: dict[str, int]
) -> None:
    stream = record()
    await log.append([new(stream, *events(1, 9), ending=ending(9))])
    await change(store, "event", where="sequence BETWEEN 3 AND 5", **what)
    for worker in (log, other):
        assert [e.sequence for e in await worker.read(stream.id, 0, 1, 1 << 20)] == [1]
        assert [e.sequence for e in await worker.read(stream.id, 2, 2, 1 << 20)][:1] == [6]
    cursor = Cursor(Reads(other), stream.id, 0, None, resumed=True)
    found, missing = [], 0
    while True:
        page = await cursor.next()
        found += [event.sequence for event in page.events]
        missing += page.missing
        if page.ended:
            break
    cursor.close()
    assert (found, missing) == ([1, 2, 6, 7, 8, 9], 3)


async def test_an_answer_that_cannot_be_read_is_an_error_in_its_place(
    log: EventLog, store: Store
) -> None:
    stream = record()
    await log.append([new(stream, *events(1, 1), answer(2, 1), ending=ending(2))])
    await change(store, "event", codec=9, where="sequence = 2")
    first, last = await log.read(stream.id, 0, 10, 1 << 20)
    assert (first.sequence, last.sequence, last.kind) == (1, 2, EventKind.RESPONSE)
    message = json.loads(last.frame.split(b"data: ")[1])
    assert message["id"] == 1
    assert "cannot be read" in message["error"]["message"]


async def test_a_stream_that_cannot_be_read_is_an_error_of_the_store_and_no_other_is(
    log: EventLog, store: Store
) -> None:
    bad, good = record(worker="gone"), record(worker="gone")
    await log.append([new(bad), new(good)])
    await change(store, "stream", kind="z", of=bad)
    with pytest.raises(StoreError, match="cannot be read"):
        await log.find(bad.id)
    assert await log.find(good.id) == good
    assert await log.open_streams_of("gone", 10) == [good]
    assert await log.open_streams_of("gone", 1) == [good]


async def test_the_streams_of_the_dead_are_ended_whatever_is_wrong_with_one_of_them(
    log: EventLog, store: Store
) -> None:
    streams = [record(worker=worker) for worker in ("a", "a", "b")]
    for stream in streams:
        await log.append([new(stream, *events(1, 2), answer(3, 7))])
    await change(store, "event", codec=9)
    await change(store, "stream", request_ids="[", of=streams[0])
    settings = Settings.load({"url": "unused.db"}, {})
    peers = Peers(log, FailureDetector(10.0))
    limits, writer = Limits(1, 1, 1, 1), Writer(log, 1.0)
    takeover = Takeover(log, peers, writer, "one", limits, settings.kept_for)

    async def unreadable(*_: object) -> None:
        raise UnreadableRowError(url="it", what="job", reason="it is damaged")

    reaper = OrphanReaper(log, peers, settings, "one", takeover, lambda *_: None, unreadable)
    await reaper._sweep()
    found = [await log.find(stream.id) for stream in streams]
    assert [each.state for each in found if each is not None] == [
        StreamState.OPEN,
        StreamState.COMPLETE,
        StreamState.COMPLETE,
    ], "what cannot be read of the others is told to whoever reads it"


async def test_a_session_that_cannot_be_read_is_an_error_and_no_other_is(
    log: EventLog, store: Store
) -> None:
    bad, good = session("bad"), session("good")
    for made in (bad, good):
        assert await log.sessions.create(made)
    for values in ({"subscriptions": "{"}, {"subscriptions": "5"}, {"initialize": b"x?"}):
        await change(store, "session", where="id = 'bad'", **{"subscriptions": "[]"} | values)
        with pytest.raises(StoreError, match="cannot be read"):
            await log.sessions.find(bad.key)
    assert await log.sessions.find(good.key) == good


async def test_a_request_in_a_state_that_nobody_knows_is_an_error_of_its_own(
    log: EventLog, store: Store
) -> None:
    made = session(expires_at=time.time() + 60)
    await log.sessions.create(made)
    relayed = RelayRequest(
        new_stream_id(), made.key, "one", 1, time.time() + 60, b"?", sealed=False
    )
    if await log.inbox.put(relayed, 10) is not EnqueueResult.ENQUEUED or not await store.rows(
        "SELECT 1 FROM mcp_inbox"
    ):
        pytest.skip("its relayed requests are not in SQL")
    await change(store, "inbox", state=9)
    with pytest.raises(StoreError, match="cannot be read"):
        await log.inbox.look(RelayRequestId(relayed.id, "one"))
    assert await log.inbox.claim("one", 10, 0.0, time.time() + 60) == []


async def test_a_worker_in_a_state_that_nobody_knows_is_not_taken_for_dead(
    log: EventLog, other: EventLog, store: Store
) -> None:
    await change(store, "worker", state=9, where="id = 'two'")
    assert {name: beat.state for name, beat in (await log.workers()).items()} == {
        "one": WorkerState.LIVE,
        "two": WorkerState.LIVE,
    }
    stream = record(worker="two")
    await log.append([new(stream)])
    assert not (await Peers(log, FailureDetector(10.0)).verify("two")).gone
    assert await other.append([add(stream, *events(1, 1))])


async def test_what_is_somebodys_is_erased_whether_it_can_be_read_or_not(
    log: EventLog, store: Store
) -> None:
    bad, good, his = record(), record(), of("ben")
    await log.append([new(each, *events(1, 3)) for each in (bad, good, his)])
    await change(store, "stream", kind="z", of=bad)
    found = await erasure.erase(log, Whose(principals=frozenset({"ann"})))
    assert (found.streams, found.events) == (2, 6)
    assert [await log.find(each.id) for each in (bad, good)] == [None, None]
    assert await log.find(his.id) is not None
