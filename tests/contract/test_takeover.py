"""What becomes of a stream that its worker has left: its end, or its next epoch."""

import dataclasses
import json

import pytest

from mcp_persist_middleware.log.base import Answers, EventLog, Written
from mcp_persist_middleware.log.live import Limits
from mcp_persist_middleware.log.membership.failure_detector import FailureDetector
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.stopping import stop
from mcp_persist_middleware.log.takeover import Takeover, end
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.model import EventKind, Outcome, StreamKind, StreamState
from mcp_persist_middleware.stores.sql.log import SqlLog
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    COMMITTED,
    FENCED,
    add,
    answer,
    ending,
    events,
    new,
    numbers,
    record,
)


async def test_of_a_batch_each_id_without_an_answer_gets_an_error_and_no_other(
    log: EventLog,
) -> None:
    batch = dataclasses.replace(record(worker="gone"), request_ids=json.dumps([1, "1", "a", 2]))
    await log.append([new(batch, answer(1, "1"), answer(2, 2))])
    ended = await end(log, batch, 60.0, None)
    assert ended is not None
    assert (ended.state, ended.last_sequence, ended.epoch) == (StreamState.FAILED, 4, 2)
    added = await log.read(batch.id, 2, *ALL)
    assert {event.epoch for event in added} == {2}
    messages = [json.loads(event.frame.split(b"data: ")[1]) for event in added]
    assert sorted((m["id"] for m in messages), key=repr) == ["a", 1]
    assert [type(m["id"]) for m in sorted(messages, key=lambda m: repr(m["id"]))] == [str, int]
    assert all("error" in m for m in messages)


async def test_a_batch_that_was_answered_whole_is_complete(log: EventLog) -> None:
    batch = dataclasses.replace(record(worker="gone"), request_ids=json.dumps([1, "1"]))
    await log.append([new(batch, answer(1, "1"), answer(2, 1))])
    ended = await end(log, batch, 60.0, None)
    assert ended is not None
    assert (ended.state, ended.last_sequence) == (StreamState.COMPLETE, 2)


async def test_the_end_of_a_long_stream_is_written_without_reading_it(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(log, SqlLog):
        pytest.skip("it has a part of the stream elsewhere, or is not ours")
    long = dataclasses.replace(record(worker="gone"), request_ids="[1, 2]")
    await log.append([new(long, *events(1, 500), answer(501, 2), *events(502, 5))])
    monkeypatch.setattr(log, "_read", None)
    ended = await end(log, long, 60.0, None)
    assert ended is not None
    assert (ended.state, ended.last_sequence) == (StreamState.FAILED, 507)


async def test_a_number_that_a_client_has_is_given_to_no_other_event(log: EventLog) -> None:
    """It was in a memory that is gone, or was shown while the store was away."""
    stream = dataclasses.replace(record(worker="gone"), kind=StreamKind.GET, request_ids="[]")
    await log.append([new(stream, *events(1, 2), ending=ending(2, expires_at=1e12))])
    writer, peers = Writer(log, 1.0), Peers(log, FailureDetector(10.0))
    limits = Limits(8, 1024, 1000, 1 << 20)
    takeover = Takeover(log, peers, writer, "two", limits, lambda _: 60.0)
    found = await log.find(stream.id)
    assert found is not None
    live = await takeover.go_on(found, given=5)
    assert live is not None
    live.add(EventKind.MESSAGE, b"data: new\r\n")
    assert await log.append([live.next_write(9)]) == [COMMITTED]
    assert await numbers(log, stream) == [1, 2, 6]
    assert live.inherited == 5


@pytest.mark.parametrize("kind", StreamKind)
async def test_a_stream_that_is_about_to_go_on_here_is_no_stream_that_was_left(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, kind: StreamKind
) -> None:
    """The store knows first that it is written here. Who comes back for it then ends it not."""
    stream = dataclasses.replace(record(worker="gone"), kind=kind, request_ids="[]")
    await log.append([new(stream, *events(1, 2))])
    writer, peers = Writer(log, 1.0), Peers(log, FailureDetector(10.0))
    limits = Limits(8, 1024, 1000, 1 << 20)
    takeover = Takeover(log, peers, writer, "two", limits, lambda _: 60.0)
    written, seen = log.written, []

    async def asked_meanwhile(name: bytes) -> Written:
        found = await log.find(name)
        assert found is not None
        seen.append((found.worker, await takeover.left(found), await takeover.go_on(found)))
        return await written(name)

    monkeypatch.setattr(log, "written", asked_meanwhile)
    live = await takeover.go_on(stream)
    assert live is not None
    assert seen[-1] == ("two", None, None)
    found = await log.find(stream.id)
    assert found is not None
    assert (found.epoch, await takeover.left(found)) == (live.record.epoch, None)


async def test_a_writer_that_has_always_written_more_is_stopped_all_the_same(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = record(worker="one")
    await log.append([new(stream, *events(1, 1))])
    answers, outcomes = log.answers, list[Outcome]()

    async def overtaken(name: bytes, after: int = 0) -> Answers:
        found = await answers(name, after)
        more = events(2 + outcomes.count(COMMITTED), 1)
        outcomes.extend(await log.append([add(stream, *more)]))
        return found

    monkeypatch.setattr(log, "answers", overtaken)
    ended = await stop(log, stream, 60.0, "two", "it was cancelled")
    assert ended is not None
    assert ended.state is StreamState.FAILED
    assert (outcomes[0], outcomes[-1]) == (COMMITTED, FENCED)
    assert await numbers(log, stream) == [*range(1, ended.last_sequence + 1)]
