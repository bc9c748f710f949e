"""The clocks of hosts differ, and are set back and forth: nothing workers share goes by them."""

import dataclasses
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from mcp_persist_middleware.log import takeover
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.clock import StoreClock
from mcp_persist_middleware.model import (
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    SessionKey,
    SessionRecord,
)
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    Factory,
    ending,
    events,
    new,
    numbers,
    record,
)

HOUR, MINUTE = 3600.0, 60.0
real = time.time


@pytest.fixture(params=[-HOUR, -MINUTE, MINUTE, HOUR])
def step(request: pytest.FixtureRequest) -> float:
    """How far a wall clock is off."""
    return float(request.param)


@pytest.fixture
async def skewed(
    make_log: Factory, log: EventLog, step: float, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[EventLog]:
    """The log of a worker whose wall clock is off, beside `log`."""
    del log
    monkeypatch.setattr(time, "time", lambda: real() + step)
    made = make_log()
    await made.open("two")
    yield made
    await made.aclose()


async def meet(one: EventLog, two: EventLog) -> None:
    """All that two workers tell each other about time."""
    assert abs(one.now() - two.now()) < 1
    read = record()
    await one.append([new(read, *events(1, 1))])
    await two.renew_readers([read.id], 4.0)
    left = await one.reader_ttl(read.id)
    assert left is not None
    # They may differ by a second, and by no more.
    assert 2.5 < left < 5

    key = SessionKey("default", "/mcp", new_stream_id().hex())
    session = SessionRecord(key, "ann", "v", b"{}", 1, "one", one.now() + 20)
    assert await one.sessions.create(session)
    name = RelayRequestId(new_stream_id(two.now()), "one")
    relayed = RelayRequest(name.id, key, "one", 1, two.inbox.now() + 10, b"?", sealed=False)
    assert await two.inbox.put(relayed, 10) is EnqueueResult.ENQUEUED
    (claimed,) = await one.inbox.claim("one", 10, one.inbox.now(), one.inbox.now() + 10)
    assert claimed.id == relayed.id
    assert await one.inbox.answer(relayed.id, "one", b"!", one.inbox.now() + 10)
    await two.inbox.purge(two.inbox.now(), 10)
    status = await two.inbox.look(name)
    assert status is not None
    assert status.reply == b"!"

    ended = record()
    await two.append([new(ended, *events(1, 2), ending=ending(2, expires_at=two.now() + 20))])
    await one.purge(one.now(), 100)
    await one.sessions.purge(one.sessions.now(), 100)
    assert await numbers(two, ended) == [1, 2]
    assert await two.sessions.find(key) is not None
    await two.purge(two.now() + 21, 100)
    assert await numbers(one, ended) == []


async def test_workers_whose_clocks_differ_go_by_one_clock(log: EventLog, skewed: EventLog) -> None:
    await meet(log, skewed)


async def test_what_a_worker_left_behind_is_ended_and_kept_by_one_clock(
    log: EventLog, skewed: EventLog
) -> None:
    """Whichever of the two workers it was whose clock is off."""
    for name, gone, other in (("one", log, skewed), ("two", skewed, log)):
        began = gone.now()
        left = dataclasses.replace(record(worker=name), created_at=began)
        await gone.append([new(left, *events(1, 2))])
        beat = (await other.workers())[name]
        found = await takeover.end(other, left, 60.0, beat.seen_at)
        assert found is not None
        assert found.ended_at is not None
        assert -1 < found.ended_at - began < 5
        (error,) = await gone.read(left.id, 2, *ALL)
        data = json.loads(error.frame.split(b"data: ")[1])["error"]["data"]
        seen = datetime.fromisoformat(data["lastSeen"]).timestamp()
        assert -1 < seen - began < 5
        # Neither purges it before its time, and either does then.
        for each in (gone, other):
            await each.purge(each.now() + 50, 100)
            assert await numbers(each, left) == [1, 2, 3]
        await gone.purge(gone.now() + 61, 100)
        assert await numbers(other, left) == []


async def test_a_clock_that_is_set_while_workers_run_changes_nothing(
    log: EventLog, other: EventLog, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = log.now()
    monkeypatch.setattr(time, "time", lambda: real() + step)
    await log.workers()
    assert 0 <= log.now() - before < 30
    await meet(log, other)


async def test_who_comes_after_a_clock_was_set_goes_by_that_of_those_who_are_there(
    make_log: Factory, log: EventLog, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: real() + step)
    third = make_log()
    await third.open("three")
    try:
        assert abs(third.now() - log.now()) < 1
        await third.workers()
        assert abs(third.now() - log.now()) < 1
    finally:
        await third.aclose()


def test_what_the_store_says_is_believed_as_far_as_the_question_took() -> None:
    clock = StoreClock()
    before = clock.now()
    clock.learn(before, time.monotonic() - 0.5)
    assert abs(clock.now() - before) < 0.1
    clock.learn(before + 100, time.monotonic() - 0.5)
    assert 99.9 < clock.now() - before < 100.6
    clock.learn(before, time.monotonic())
    assert abs(clock.now() - before) < 0.1
