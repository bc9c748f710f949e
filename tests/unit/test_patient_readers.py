"""Readers of streams that other workers write, to whom nothing is told for long: they look by
themselves, together, and miss nothing."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log import cursor as cursor_module
from mcp_persist_middleware.log.base import LastNumber
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.model import HighWater, StreamState, StreamWrite
from mcp_persist_middleware.wakeups import base
from mcp_persist_middleware.wakeups.base import Polling
from tests.support.scripted import until
from tests.unit.test_remote_readers import ENDING, Patient, events, following


class Counting(Patient):
    """Its readers are soon patient for long enough, and their questions are counted."""

    wakeups = Polling(0.1)

    def __init__(self) -> None:
        super().__init__(before=10**9)
        self.asked_together: list[int] = []
        self.fails = False

    async def last_numbers(self, streams: Mapping[bytes, int]) -> Mapping[bytes, LastNumber]:
        if self.fails:
            raise StoreError(url="store", reason="it is away")
        self.asked_together.append(len(streams))
        ended = self.record.state is not StreamState.OPEN
        return dict.fromkeys(
            streams, LastNumber(self.events[-1].sequence, not ended, self.record.epoch)
        )


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked together after a second is asked together after a moment."""
    for module in (base, cursor_module):
        monkeypatch.setattr(module, "TOGETHER", 0.05)


@pytest.mark.usefixtures("soon")
async def test_many_who_wait_in_vain_ask_the_store_with_few_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, looks, is_current = Counting(), 0, Reads.is_current

    async def counted(reads: Reads, stream: bytes, has: HighWater) -> bool:
        nonlocal looks
        looks += 1
        return await is_current(reads, stream, has)

    monkeypatch.setattr(Reads, "is_current", counted)
    shared = Reads(log)
    cursors = [Cursor(shared, log.record.id, 0, None, resumed=True) for _ in range(100)]
    for each in cursors:
        assert len((await each.next()).events) == 2
    before = log._looks
    waiting = [asyncio.create_task(each.next()) for each in cursors]
    await until(lambda: looks >= 1000)
    assert len(log.asked_together) < looks / 10
    assert log._looks - before <= 2 * 2 * len(cursors), "once each, and when it has subscribed"
    # All wake-ups are lost, and everybody has it.
    log.apply(StreamWrite(log.record.id, 1, events=events(3, 3)))
    async with asyncio.timeout(10):
        pages = await asyncio.gather(*waiting)
    assert [[event.sequence for event in page.events] for page in pages] == [[3]] * 100
    for each in cursors:
        each.close()


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("lost", ["an end", "another epoch", "a failure"])
async def test_what_no_wake_up_told_is_seen_by_who_asks_with_others(lost: str) -> None:
    log = Counting()
    cursor, waiting = await following(log)
    await until(lambda: len(log.asked_together) > 2)
    match lost:
        case "an end":
            log.apply(StreamWrite(log.record.id, 1, ending=replace(ENDING, last_sequence=2)))
            async with asyncio.timeout(10):
                assert (await waiting).ended
        case "another epoch":
            before = log._looks
            log.record = replace(log.record, epoch=2)
            await until(lambda: log._looks > before)
            waiting.cancel()
        case _:
            log.fails = True
            with pytest.raises(StoreError, match="it is away"):
                async with asyncio.timeout(10):
                    await waiting
    cursor.close()
