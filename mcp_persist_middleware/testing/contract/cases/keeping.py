"""The store itself: what survives, what its workers share, and how much there is."""

from mcp_persist_middleware.store import EventLog, Written
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    COMMITTED,
    Factory,
    add,
    answer,
    ending,
    events,
    new,
    record,
)


class Keeping:
    """The store itself: what survives, what its workers share, and how much there is."""

    async def test_everything_is_there_after_it_was_closed_and_opened(
        self, make_log: Factory
    ) -> None:
        first = make_log()
        await first.open("one")
        done, living = record(), record()
        await first.append([new(done, *events(1, 3), ending=ending(3)), new(living, *events(1, 2))])
        before = [await first.find(done.id), await first.find(living.id)]
        secret = first.secret
        await first.aclose()
        second = make_log()
        await second.open("two")
        try:
            assert [await second.find(done.id), await second.find(living.id)] == before
            assert tuple(await second.read(done.id, 0, *ALL)) == events(1, 3)
            assert await second.append([add(living, *events(3, 1))]) == [COMMITTED]
            assert second.secret == secret
        finally:
            await second.aclose()

    async def test_a_ping_writes_nothing_and_returns(self, log: EventLog) -> None:
        await log.ping()
        assert (await log.purge(10.0**12, 100)).streams == 0

    async def test_how_much_there_is_of_a_stream_is_known(self, log: EventLog) -> None:
        stream, beside = record(), record()
        written = (*events(1, 3), answer(4, 1), *events(5, 1))
        await log.append([new(stream, *written), new(beside)])
        assert await log.written(beside.id) == Written(0, 0, 0)
        size = sum(len(event.frame) for event in written)
        assert await log.written(stream.id) == Written(5, 5, size)
        assert await log.written(stream.id, 4) == Written(5, 1, len(written[4].frame))
        assert await log.written(stream.id, 9) == Written(9, 0, 0)
        assert await log.answers(stream.id) == (5, [written[3]])
        assert await log.answers(stream.id, 4) == (5, [])
        assert await log.answers(beside.id) == (0, [])

    async def test_all_workers_on_a_store_share_its_secret(
        self, log: EventLog, other: EventLog
    ) -> None:
        assert log.secret == other.secret
        assert len(log.secret) >= 32
