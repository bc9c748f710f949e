"""What the workers tell each other of a place is one short stream that all of them write."""

import asyncio
import dataclasses

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.takeover import end
from mcp_persist_middleware.model import Place
from mcp_persist_middleware.protocol.hints import Filter, Hint
from mcp_persist_middleware.streams.hints import hint_log
from mcp_persist_middleware.streams.hints.hint_log import HintLog, Note
from mcp_persist_middleware.testing.contract.builders import numbers

PLACE = Place("default", "/mcp")


def notes(worker: str, *uris: int) -> list[Note]:
    return [Note("hint", worker, float(uri), Hint("updated", str(uri))) for uri in uris]


async def test_workers_that_write_at_once_lose_nothing_and_each_reads_all(
    log: EventLog, other: EventLog
) -> None:
    one, two = HintLog(log, "one", PLACE), HintLog(other, "two", PLACE)
    assert one.id == two.id
    assert await one.read() == []
    for n in range(5):
        await asyncio.gather(one.append(notes("one", n)), two.append(notes("two", n, n + 100)))
    read = await two.read()
    assert sorted(note.at for note in read if note.worker == "one") == [0, 1, 2, 3, 4]
    assert len(read) == 15
    assert await one.read() == read
    assert await one.read() == []


async def test_it_stays_short(log: EventLog) -> None:
    one = HintLog(log, "one", PLACE)
    for _ in range(3):
        await one.append(notes("one", *range(hint_log._KEPT)))
    record = await log.find(one.id)
    assert record is not None
    assert len(await numbers(log, record)) <= hint_log._KEPT


async def test_it_goes_on_after_its_end_and_when_it_was_removed(
    log: EventLog, other: EventLog
) -> None:
    one, two = HintLog(log, "one", PLACE), HintLog(other, "two", PLACE)
    await one.append(notes("one", 1))
    assert len(await two.read()) == 1
    await one.end()
    await two.append(notes("two", 2))
    assert [note.at for note in await one.read()] == [1, 2]
    record = await log.find(one.id)
    assert record is not None
    # Its worker is gone, and nobody has written for as long as streams are kept.
    await end(log, record, -1.0, None)
    while (await log.purge(log.now(), 1000)).more:
        pass
    if await log.find(one.id) is None:
        two = HintLog(other, "two", PLACE)
        await two.append([dataclasses.replace(notes("two", 3)[0], hint=Hint("updated", "3"))])
        assert [note.at for note in await one.read()] == [3]


def test_a_note_is_read_as_it_was_written_and_a_filter_is_not_longer_than_it_may_be() -> None:
    for note in (
        *notes("one", 1),
        Note("on", "one", 2.5, key="k"),
        Note("want", "one", 3.0, wanted=Filter(frozenset(), frozenset({"file:///a"}))),
    ):
        assert Note.of(note.frame()) == note
    uris = frozenset(f"file:///{n:0500}" for n in range(1000))
    shortened = Note.of(Note("want", "one", 1.0, wanted=Filter(frozenset(), uris)).frame())
    assert shortened is not None
    assert 0 < len(shortened.wanted.uris) < 100
    assert shortened.wanted.uris < uris
    assert Note.of(b"data: nothing") is None
