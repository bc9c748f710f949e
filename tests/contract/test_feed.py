"""What follows the events of many streams gives each once, on every store."""

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mcp_persist_middleware.errors import FeedError, StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.deletions import Deletion, Reason
from mcp_persist_middleware.log.feed import feed as feeds
from mcp_persist_middleware.log.feed.feed import Feed
from mcp_persist_middleware.log.feed.items import (
    FeedEvent,
    FeedGap,
    FeedItem,
    GapReason,
    Terms,
    scope_of,
)
from mcp_persist_middleware.log.feed.positions import Positions
from mcp_persist_middleware.model import Owner, StreamKind, StreamRecord, StreamWrite
from mcp_persist_middleware.protocol.event_id import earliest, name_of
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.testing.contract.builders import (
    KEY,
    add,
    answer,
    ending,
    events,
    new,
    record,
    session,
)
from mcp_persist_middleware.wakeups.base import Polling, Subscription
from tests.support.scripted import until
from tests.support.stores import Store

HORIZON = 25.0
MakeFeed = Callable[..., Feed]
Told = list[tuple[str, int]]


@pytest.fixture
async def follow(other: EventLog) -> AsyncIterator[MakeFeed]:
    """Makes feeds of another worker than the one that writes."""
    made: list[Feed] = []

    def make(after: str = "start", terms: dict[str, Any] | None = None, **scope: Any) -> Feed:
        async def source() -> EventLog:
            return other

        names = {"stream": None, "session": None, "namespace": None} | scope
        kept = Terms(**({"horizon": HORIZON, "kept": 3600.0} | (terms or {})))
        made.append(Feed(source, scope_of(**names), after, kept))
        return made[-1]

    yield make
    for feed in made:
        await feed.aclose()


async def take(feed: Feed, count: int) -> list[FeedItem]:
    async with asyncio.timeout(20):
        return [await anext(feed) for _ in range(count)]


async def is_silent(feed: Feed, seconds: float = 0.1) -> bool:
    """Nothing more comes of it, after one whole look at least; it is closed."""
    coming = asyncio.create_task(anext(feed))
    await asyncio.wait([coming], timeout=seconds)
    await until(lambda: coming.done() or feed._whole_at)
    is_silent = not coming.done()
    coming.cancel()
    await asyncio.wait([coming])
    await feed.aclose()
    return is_silent


def wakes(log: EventLog) -> bool:
    """Whether those who follow are woken."""
    return not isinstance(getattr(log, "inner", log).wakeups, Polling)


def told(items: list[FeedItem]) -> Told:
    return [(item.stream, item.sequence) for item in items if isinstance(item, FeedEvent)]


def of(stream: StreamRecord, first: int, last: int) -> Told:
    return [(name_of(stream.id), n) for n in range(first, last + 1)]


def old(seconds: float, **changes: Any) -> StreamRecord:
    """A stream that began so long ago."""
    made = record()
    back = int.from_bytes(made.id[:6], "big") / 1000 - seconds
    return dataclasses.replace(made, id=earliest(back) + made.id[6:], **changes)


async def test_from_the_start_all_that_there_is_comes_and_then_what_is_written(
    log: EventLog, follow: MakeFeed
) -> None:
    first, second = record(), record()
    await log.append([new(first, *events(1, 3), ending=ending(3)), new(second, *events(1, 2))])
    feed = follow()
    assert sorted(told(await take(feed, 5))) == sorted(of(first, 1, 3) + of(second, 1, 2))
    third = record()
    await log.append([add(second, *events(3, 2)), new(third, *events(1, 1), ending=ending(1))])
    assert sorted(told(await take(feed, 3))) == sorted(of(second, 3, 4) + of(third, 1, 1))
    await log.append([add(second, answer(5, 1), ending=ending(5))])
    (last,) = await take(feed, 1)
    assert isinstance(last, FeedEvent)
    assert last.message["id"] == 1
    assert (last.session, last.namespace, last.path, last.principal) == (
        "s",
        "default",
        "/mcp",
        "ann",
    )
    assert await is_silent(feed)


async def test_a_feed_goes_on_behind_any_of_its_cursors(log: EventLog, follow: MakeFeed) -> None:
    streams = [record() for _ in range(4)] + [old(3600)]
    await log.append([new(s, *events(1, 3), ending=ending(3)) for s in streams[:2]])
    await log.append([new(s, *events(1, 2)) for s in streams[2:]])
    feed = follow()
    items = await take(feed, 12)
    await log.append([add(s, *events(3, 1), ending=ending(3)) for s in streams[3:]])
    items += await take(feed, 2)
    whole = told(items)
    assert len(set(whole)) == 14
    # In any order: they are all made from the same changes.
    for n in random.sample(range(14), 14):
        again = follow(items[n].cursor)
        assert sorted(told(await take(again, 13 - n))) == sorted(whole[n + 1 :])
        assert await is_silent(again, 0.03)


@pytest.mark.parametrize("scope", [{}, {"namespace": "default"}, {"session": "s"}])
async def test_from_now_on_comes_what_is_committed_from_then_on(
    log: EventLog, follow: MakeFeed, scope: dict[str, str]
) -> None:
    done, running, idle = old(3600), old(3600), old(3600)
    own = old(3600, kind=StreamKind.GET)
    await log.append([new(s, *events(1, 2), ending=ending(2)) for s in (done, own)])
    await log.append([new(running, *events(1, 2)), new(idle)])
    assert await log.sessions.create(session(expires_at=log.now() + 60))
    await log.sessions.begin_stream(KEY, own.id)
    feed = follow("now", **scope)
    await feed.begin()
    at = feed.cursor
    await log.append([add(running, *events(3, 1), ending=ending(3))])
    await log.append([add(idle, *events(1, 1), ending=ending(1))])
    # A session's own stream goes on after its end.
    await log.append(
        [StreamWrite(own.id, 2, takes_over=1, worker="one", events=events(3, 1, epoch=2))]
    )
    expected = sorted(of(running, 3, 3) + of(idle, 1, 1) + of(own, 3, 3))
    assert sorted(told(await take(feed, 3))) == expected
    assert await is_silent(feed)
    again = follow(at, **scope)
    assert sorted(told(await take(again, 3))) == expected
    assert await is_silent(again)


async def test_what_is_committed_later_than_what_began_after_it_comes_all_the_same(
    log: EventLog, follow: MakeFeed, other: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wakes(other):
        # A wake-up alone is enough, of whatever age what it is for.
        monkeypatch.setattr(Subscription, "patience", property(lambda _: 3600.0, lambda *_: None))
    late, soon = old(HORIZON - 5), record()
    await log.append([new(soon, *events(1, 1), ending=ending(1))])
    feed = follow()
    (item,) = await take(feed, 1)
    await log.append([new(late, *events(1, 1), ending=ending(1))])
    assert told(await take(feed, 1)) == of(late, 1, 1)
    again = follow(item.cursor)
    assert told(await take(again, 1)) == of(late, 1, 1)
    assert await is_silent(again)


async def test_a_feed_follows_what_is_meant_alone(log: EventLog, follow: MakeFeed) -> None:
    mine = record(session="a", namespace="free")
    others = [record(session="b", namespace="free"), record(session="a", namespace="paid")]
    await log.append([new(s, *events(1, 1)) for s in (mine, *others)])
    for scope, count in (({"session": "a"}, 2), ({"namespace": "free"}, 2), ({}, 3)):
        feed = follow(**scope)
        assert len(set(told(await take(feed, count)))) == count
        assert await is_silent(feed, 0.03)
    feed = follow(session="a", namespace="free")
    (item,) = await take(feed, 1)
    assert told([item]) == of(mine, 1, 1)
    with pytest.raises(FeedError, match="neither 'now'"):
        await follow(item.cursor, session="a").begin()


async def test_one_stream_is_followed_to_its_end(log: EventLog, follow: MakeFeed) -> None:
    stream = record()
    await log.append([new(stream, *events(1, 2)), new(record(), *events(1, 2))])
    feed = follow(stream=name_of(stream.id))
    items = await take(feed, 2)
    await log.append([add(stream, *events(3, 1), ending=ending(3))])
    async with asyncio.timeout(20):
        items += [item async for item in feed]
        assert told(items) == of(stream, 1, 3)
        for n, item in enumerate(items):
            again = follow(item.cursor, stream=name_of(stream.id))
            assert told([each async for each in again]) == of(stream, n + 2, 3)
    with pytest.raises(FeedError, match="no such stream"):
        await follow(stream=name_of(record().id)).begin()


async def test_what_was_removed_is_a_gap(log: EventLog, follow: MakeFeed) -> None:
    stream = record()
    await log.append([new(stream, *events(1, 5))])
    feed = follow()
    items = await take(feed, 1)
    await log.append([add(stream, *events(6, 1), trim=3)])
    items = [*items, *await take(follow(items[0].cursor), 4)]
    (gap,) = (item for item in items if isinstance(item, FeedGap))
    assert (gap.stream, gap.after, gap.missing) == (name_of(stream.id), 1, 2)
    assert told(items) == of(stream, 1, 1) + of(stream, 4, 6)
    at = items[-1].cursor
    await log.append([add(stream, *events(7, 2), ending=ending(8, expires_at=10.0))])
    while (await log.purge(20.0, 100)).more:
        pass
    (gap,) = await take(follow(at), 1)
    assert isinstance(gap, FeedGap)
    assert (gap.stream, gap.after, gap.missing) == (name_of(stream.id), 6, None)
    assert await is_silent(follow(gap.cursor))


async def test_what_a_client_has_deleted_with_its_session_may_be_read_for_a_while(
    log: EventLog, follow: MakeFeed, store: Store
) -> None:
    stream = record()
    await log.append([new(stream, *events(1, 1))])
    (item,) = await take(follow(), 1)
    end = dataclasses.replace(ending(2), ended_at=log.now())
    await log.append([add(stream, *events(2, 1), ending=end)])
    await log.expire_session("default", "/mcp", "s")
    await log.purge(log.now(), 100)
    if "url" in store.settings:
        assert told(await take(follow(item.cursor), 1)) == of(stream, 2, 2)


async def test_streams_that_nobody_knows_any_more_are_a_gap(
    log: EventLog, follow: MakeFeed, other: EventLog
) -> None:
    feed = follow("now")
    await feed.begin()
    assert feed._positions is not None
    yesterday = feed._positions.floor - 86_400_000
    at = Positions(feed._positions._key, yesterday).moment().cursor()
    await log.note_deletions([Deletion(other.now() - 60, Reason.FORGOTTEN, "", "streams", 3)])
    assert await is_silent(follow(at))
    await log.note_deletions([Deletion(other.now() - 60, Reason.AGE, "", "streams", 3)])
    assert await is_silent(follow(at, {"kept": 100_000.0}))
    (gap,) = await take(follow(at), 1)
    assert isinstance(gap, FeedGap)
    assert (gap.stream, gap.missing, gap.reason) == (None, None, GapReason.REMOVED)


async def test_who_is_too_far_behind_may_drop_what_is_oldest_and_hears_how_much(
    log: EventLog, follow: MakeFeed
) -> None:
    first, second = record(), record()
    await log.append([new(first, *events(1, 30), ending=ending(30)), new(second, *events(1, 30))])
    items = await take(follow(terms={"on_slow": "drop", "max_behind": 10}), 12)
    gaps = [item for item in items if isinstance(item, FeedGap)]
    assert sorted(gap.missing for gap in gaps) == [20, 30]
    assert {gap.reason for gap in gaps} == {GapReason.DROPPED}
    assert len(told(items)) == 10
    assert await is_silent(follow(items[-1].cursor))


async def test_while_the_store_is_away_a_feed_waits(
    log: EventLog, follow: MakeFeed, other: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, feed = record(), follow()
    await log.append([new(stream, *events(1, 1))])
    assert told(await take(feed, 1)) == of(stream, 1, 1)
    failures = 0
    whole = other.last_numbers

    async def failing(*asked: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures < 4:
            raise StoreError(url="it", reason="away")
        return await whole(*asked)

    monkeypatch.setattr(other, "last_numbers", failing)
    await log.append([add(stream, *events(2, 1))])
    assert told(await take(feed, 1)) == of(stream, 2, 2)
    assert failures >= 4


async def test_with_every_wake_up_lost_a_feed_gets_on(
    log: EventLog, follow: MakeFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Subscription, "notify", lambda _: None)
    monkeypatch.setattr(Subscription, "patience", property(lambda _: 0.1, lambda *_: None))
    stream, feed = record(), follow("now")
    await feed.begin()
    for number in range(1, 4):
        write = new(stream, *events(1, 1)) if number == 1 else add(stream, *events(number, 1))
        await log.append([write])
        assert told(await take(feed, 1)) == of(stream, number, number)


async def test_a_commit_wakes_who_follows_everything(
    log: EventLog, follow: MakeFeed, other: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not wakes(other):
        pytest.skip("a log without wake-ups: its readers look by themselves")
    # Nobody looks by himself.
    monkeypatch.setattr(Subscription, "patience", property(lambda _: 3600.0, lambda *_: None))
    monkeypatch.setattr(feeds, "_WHOLE", 0.0)
    monkeypatch.setattr(feeds, "_SELDOM", 0.0)
    stream, feed = record(), follow("now")
    await feed.begin()
    for number in range(1, 6):
        coming = asyncio.create_task(anext(feed))
        await asyncio.sleep(0.05)
        write = new(stream, *events(1, 1)) if number == 1 else add(stream, *events(number, 1))
        await log.append([write])
        async with asyncio.timeout(10):
            assert told([await coming]) == of(stream, number, number)


async def test_what_redis_alone_has_is_not_given_yet(log: EventLog, follow: MakeFeed) -> None:
    if not isinstance(log, RedisLog):
        pytest.skip("it is about Redis")
    stream = record()
    await log.append([new(stream, *events(1, 1))])
    async with log._flusher.lock:
        await log.append([add(stream, *events(2, 1))])
        feed = follow()
        assert told(await take(feed, 1)) == of(stream, 1, 1)
        coming = asyncio.create_task(anext(feed))
        await asyncio.wait([coming], timeout=0.2)
        assert not coming.done(), "it may be lost with Redis, and its number given again"
    async with asyncio.timeout(20):
        assert told([await coming]) == of(stream, 2, 2)


class Calls:
    """Streams of many owners that begin, go on and end on one log, all at once."""

    def __init__(self, log: EventLog, seed: int, count: int) -> None:
        self._log = log
        self._random = random.Random(seed)
        self._left = count
        self._open: list[list[Any]] = []
        self.written: Counter[tuple[str, int]] = Counter()

    async def run(self) -> None:
        while self._left or self._open:
            await self._log.append(batch := self._batch())
            for write in batch:
                self.written.update((name_of(write.id), e.sequence) for e in write.events)

    def _batch(self) -> list[StreamWrite]:
        batch: list[StreamWrite] = []
        for call in list(self._open):
            if self._random.random() < 0.5:
                some = events(call[1] + 1, self._random.randrange(4))
                call[1] += len(some)
                ends = self._random.random() < 0.3
                if ends:
                    self._open.remove(call)
                batch.append(add(call[0], *some, ending=ending(call[1]) if ends else None))
        for _ in range(min(self._left, self._random.randrange(4))):
            self._left -= 1
            stream, some = old(self._random.random() * 5), events(1, self._random.randrange(3))
            self._open.append([stream, len(some)])
            batch.append(new(stream, *some))
        return batch


async def test_each_event_comes_once_however_often_who_follows_is_killed(
    log: EventLog, other: EventLog, follow: MakeFeed
) -> None:
    calls = [Calls(log, 1, 60), Calls(other, 2, 60)]
    at, seen = "start", Counter[tuple[str, int]]()
    order: dict[str, int] = {}

    async def read() -> None:
        nonlocal at
        while True:
            feed = follow(at)
            for _ in range(random.randrange(1, 40)):
                item = await anext(feed)
                assert isinstance(item, FeedEvent)
                assert item.sequence == order.get(item.stream, 0) + 1
                order[item.stream] = item.sequence
                seen[item.stream, item.sequence] += 1
                at = item.cursor
            await feed.aclose()

    reading = asyncio.create_task(read())
    async with asyncio.timeout(60):
        await asyncio.gather(*[each.run() for each in calls])
        written = calls[0].written + calls[1].written
        while seen.total() < written.total() and not reading.done():
            await asyncio.sleep(0.02)
    reading.cancel()
    await asyncio.wait([reading])
    assert seen == written


def test_an_item_tells_no_log_what_it_says() -> None:
    owner = Owner("default", "/mcp", "secret-session", "secret-principal")
    item = FeedEvent(
        "x" * 22,
        1,
        1,
        events(1, 1)[0].kind,
        StreamKind.POST,
        *dataclasses.astuple(owner),
        b"data: secret\r\n",
        lambda: "",
    )
    assert "secret" not in repr(item)
