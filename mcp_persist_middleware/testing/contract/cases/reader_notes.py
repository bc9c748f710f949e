"""A stream's owner learns from the store that somebody reads it on another worker."""

from mcp_persist_middleware.store import EventLog
from mcp_persist_middleware.testing.contract.builders import add, ending, events, new, record


class Readers:
    """A stream's owner learns from the store that somebody reads it on another worker."""

    async def test_a_note_of_a_reader_is_seen_by_every_worker(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream, silent = record(), record()
        await log.append([new(stream), new(silent, *events(1, 1))])
        assert await log.reader_ttl(stream.id) is None
        await other.renew_readers([stream.id], 60)
        for worker in (log, other):
            left = await worker.reader_ttl(stream.id)
            assert left is not None
            assert 50 < left <= 60
            assert await worker.reader_ttl(silent.id) is None

    async def test_a_note_runs_out_and_says_since_when(self, log: EventLog) -> None:
        stream = record()
        await log.append([new(stream)])
        await log.renew_readers([stream.id], -7)
        left = await log.reader_ttl(stream.id)
        assert left is not None
        assert -10 < left <= -7

    async def test_a_shorter_note_does_not_take_away_a_longer_one(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream = record()
        await log.append([new(stream)])
        await log.renew_readers([stream.id], 60)
        await other.renew_readers([stream.id], 1)
        left = await log.reader_ttl(stream.id)
        assert left is not None
        assert left > 50

    async def test_a_note_changes_nothing_else_of_a_stream(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream = record()
        await log.append([new(stream, *events(1, 2))])
        await other.renew_readers([stream.id], 60)
        assert await log.find(stream.id) == stream
        await log.append([add(stream, *events(3, 1))])
        left = await log.reader_ttl(stream.id)
        assert left is not None
        assert left > 50

    async def test_ended_and_unknown_streams_are_passed_over(self, log: EventLog) -> None:
        done, unknown = record(), record()
        await log.append([new(done, *events(1, 1), ending=ending(1))])
        await log.renew_readers([done.id, unknown.id], 60)
        assert await log.reader_ttl(done.id) is None
        assert await log.reader_ttl(unknown.id) is None

    async def test_more_streams_than_one_statement_takes_are_noted(self, log: EventLog) -> None:
        streams = [record() for _ in range(300)]
        await log.append([new(stream) for stream in streams])
        await log.renew_readers([stream.id for stream in streams], 60)
        for stream in (streams[0], streams[-1]):
            assert (await log.reader_ttl(stream.id) or 0) > 50
        await log.renew_readers([], 60)

    async def test_a_note_goes_with_its_stream(self, log: EventLog) -> None:
        stream = record()
        await log.append([new(stream)])
        await log.renew_readers([stream.id], 60)
        await log.append([add(stream, ending=ending(0, expires_at=1.0))])
        assert (await log.purge(2.0, 100)).streams == 1
        assert await log.reader_ttl(stream.id) is None
