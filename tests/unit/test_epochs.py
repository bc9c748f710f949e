"""In which epoch a stream is that another worker writes: SQL is asked seldom, for many together,
and nobody waits for it who need not."""

import asyncio
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import LastNumber
from mcp_persist_middleware.stores.redis import epochs as module
from mcp_persist_middleware.stores.redis.epochs import Epochs
from mcp_persist_middleware.supervision import Tasks

STREAMS = [bytes([number]) * 16 for number in range(100)]


class Sql:
    """What is asked, and answered when it is let."""

    name = "sql"

    def __init__(self) -> None:
        self.asked: list[set[bytes]] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.open = dict.fromkeys(STREAMS, True)
        self.fails = False

    async def last_numbers(self, streams: Mapping[bytes, int]) -> Mapping[bytes, LastNumber]:
        self.asked.append(set(streams))
        await self.answers.wait()
        if self.fails:
            raise StoreError(url="sql", reason="it is away")
        return {each: LastNumber(1, self.open[each], 7) for each in streams if each in self.open}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A time that passes when it is told to."""
    now = SimpleNamespace(at=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.at))
    return now


def epochs(sql: Any, *topics: bytes) -> Epochs:
    """Those of streams, of which some are read here."""
    wakeups: Any = SimpleNamespace(topics=topics)
    return Epochs(sql, wakeups, Tasks("epochs"), 5.0)


@pytest.mark.usefixtures("clock")
async def test_many_who_ask_at_once_share_their_questions() -> None:
    sql = Sql()
    known = epochs(sql, *STREAMS)
    assert await asyncio.gather(*map(known.of, STREAMS)) == [7] * 100
    assert len(sql.asked) <= 2


async def test_who_asks_for_one_stream_asks_for_all_that_are_read_here(
    clock: SimpleNamespace,
) -> None:
    sql = Sql()
    known = epochs(sql, *STREAMS, b"no stream")
    await asyncio.gather(*map(known.of, STREAMS))
    sql.asked.clear()
    clock.at += 0.6
    for stream in STREAMS:
        assert await known.of(stream) == 7
    assert sql.asked == [set(STREAMS)]


async def test_what_is_known_is_asked_anew_before_it_counts_no_more(clock: SimpleNamespace) -> None:
    sql = Sql()
    known = epochs(sql, STREAMS[0])
    assert await known.of(STREAMS[0]) == 7
    sql.answers.clear()
    clock.at += 0.3
    async with asyncio.timeout(5):
        assert [await known.of(STREAMS[0]) for _ in range(10)] == [7] * 10
        while len(sql.asked) < 2:
            await asyncio.sleep(0)
    # It counts for half a second, whether the next answer is there or not.
    clock.at += 0.3
    waiting = asyncio.create_task(known.of(STREAMS[0]))
    sql.open[STREAMS[0]] = False
    sql.answers.set()
    assert await waiting == 0
    assert len(sql.asked) <= 3


async def test_a_stream_that_is_gone_is_in_no_epoch(clock: SimpleNamespace) -> None:
    sql = Sql()
    known = epochs(sql, STREAMS[0])
    assert await known.of(STREAMS[0]) == 7
    del sql.open[STREAMS[0]]
    clock.at += 0.6
    assert await known.of(STREAMS[0]) == 0


async def test_sql_that_is_away_is_an_error_when_nothing_counts_any_more(
    clock: SimpleNamespace,
) -> None:
    sql = Sql()
    known = epochs(sql, STREAMS[0])
    assert await known.of(STREAMS[0]) == 7
    sql.fails = True
    clock.at += 0.3
    for _ in range(3):
        assert await known.of(STREAMS[0]) == 7
        await asyncio.sleep(0)
    clock.at += 0.3
    with pytest.raises(StoreError, match="it is away"):
        await known.of(STREAMS[0])
