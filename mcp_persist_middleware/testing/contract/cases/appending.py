"""A batch: in order, whole entries, one writer, no entry pays for another."""

import asyncio
import dataclasses

import pytest

from mcp_persist_middleware.store import (
    Event,
    EventKind,
    EventLog,
    StoreError,
    StreamKind,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    COMMITTED,
    FENCED,
    REJECTED,
    add,
    ending,
    events,
    new,
    numbers,
    record,
)


class Appending:
    """A batch: in order, whole entries, one writer, no entry pays for another."""

    async def test_events_come_back_as_they_went_in_and_in_order(self, log: EventLog) -> None:
        stream, other = record(), record()
        kinds = [EventKind.NOISE, EventKind.MESSAGE, EventKind.REQUEST, EventKind.RESPONSE]
        written = tuple(Event(n, 1, kind, bytes([n, 0, 255])) for n, kind in enumerate(kinds, 1))
        assert await log.append([new(stream, *written), new(other)]) == [COMMITTED] * 2
        assert await log.append([add(stream, *events(5, 3)), add(other, *events(1, 2))]) == (
            [COMMITTED] * 2
        )
        assert await log.read(stream.id, 0, *ALL) == [*written, *events(5, 3)]
        assert await numbers(log, other) == [1, 2]

    async def test_no_event_of_a_batch_of_any_size_is_missing(self, log: EventLog) -> None:
        for count in (1, 2, 3, 1023, 1024, 1025, 2500):
            stream = record()
            await log.append([new(stream)])
            assert await log.append([add(stream, *events(1, count))]) == [COMMITTED]
            assert await numbers(log, stream) == list(range(1, count + 1))

    async def test_an_empty_batch_is_answered_with_nothing(self, log: EventLog) -> None:
        assert await log.append([]) == []

    @pytest.mark.parametrize("plain", [True, False])
    async def test_a_fenced_entry_costs_the_others_nothing(
        self, log: EventLog, plain: bool
    ) -> None:
        streams = [record() for _ in range(5)]
        await log.append([new(stream) for stream in streams])
        batch = [add(stream, *events(1, 3)) for stream in streams]
        batch[2] = add(streams[2], *events(1, 3, epoch=2), epoch=2)
        if not plain:
            batch.append(new(record(), *events(1, 1)))
        outcomes = await log.append(batch)
        assert outcomes[:5] == [COMMITTED, COMMITTED, FENCED, COMMITTED, COMMITTED]
        assert set(outcomes[5:]) <= {COMMITTED}
        assert [await numbers(log, stream) for stream in streams] == [
            [1, 2, 3],
            [1, 2, 3],
            [],
            [1, 2, 3],
            [1, 2, 3],
        ]

    async def test_a_stream_that_is_not_there_is_fenced(self, log: EventLog) -> None:
        assert await log.append([add(record(), *events(1, 1))]) == [FENCED]

    async def test_a_stream_that_has_ended_takes_nothing_more(self, log: EventLog) -> None:
        stream = record()
        await log.append([new(stream, *events(1, 2), ending=ending(2))])
        assert await log.append([add(stream, *events(3, 1))]) == [FENCED]
        assert await log.append([add(stream, *events(3, 1), ending=ending(3))]) == [FENCED]
        late = add(stream, *events(3, 1, epoch=2), epoch=2, takes_over=1, ending=ending(3))
        assert await log.append([late]) == [FENCED]
        assert await numbers(log, stream) == [1, 2]
        found = await log.find(stream.id)
        assert found is not None
        assert (found.epoch, found.last_sequence) == (1, 2)

    async def test_whoever_takes_over_fences_the_old_writer(self, log: EventLog) -> None:
        stream = record()
        await log.append([new(stream, *events(1, 2))])
        take = add(stream, *events(3, 1, epoch=2), epoch=2, takes_over=1)
        assert await log.append([take]) == [COMMITTED]
        assert await log.append([add(stream, *events(3, 1))]) == [FENCED]
        assert await log.append([add(stream, *events(4, 1, epoch=2), epoch=2)]) == [COMMITTED]
        assert [(e.sequence, e.epoch) for e in await log.read(stream.id, 0, *ALL)] == [
            (1, 1),
            (2, 1),
            (3, 2),
            (4, 2),
        ]
        second = add(stream, *events(5, 1, epoch=2), epoch=2, takes_over=1)
        assert await log.append([second]) == [FENCED]

    @pytest.mark.parametrize("own", [0, 1])
    async def test_whoever_takes_over_with_less_than_the_old_writer_committed_is_refused(
        self, log: EventLog, other: EventLog, own: int
    ) -> None:
        stream = record()
        await log.append([new(stream, *events(1, 1))])
        assert await numbers(other, stream) == [1], "so much has been read"
        assert await log.append([add(stream, *events(2, 1))]) == [COMMITTED]
        late = add(stream, *events(2, own, epoch=2), epoch=2, takes_over=1, ending=ending(1 + own))
        assert await other.append([late, new(record())]) == [FENCED, COMMITTED]
        found = await other.find(stream.id)
        assert found is not None
        assert (found.state, found.epoch) == (StreamState.OPEN, 1)
        again = add(stream, *events(3, own, epoch=2), epoch=2, takes_over=1, ending=ending(2 + own))
        for _ in range(2):
            assert await other.append([again]) == [COMMITTED], "then, and when it is tried again"
        found = await other.find(stream.id)
        assert found is not None
        assert found.last_sequence == len(await numbers(other, stream)) == 2 + own

    async def test_a_sessions_own_stream_goes_on_after_its_end_as_often_as_it_is_taken_over(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream = dataclasses.replace(record(), kind=StreamKind.GET, request_ids="[]")
        await log.append([new(stream, *events(1, 2), ending=ending(2))])
        takes = [
            (each, add(stream, epoch=2, takes_over=1, worker=name))
            for name, each in (("one", log), ("two", other))
        ]
        outcomes = await asyncio.gather(*(each.append([write]) for each, write in takes))
        assert sorted(outcomes, key=str) == [[COMMITTED], [FENCED]]
        winner, write = takes[outcomes.index([COMMITTED])]
        assert await winner.append([write]) == [COMMITTED], "a retry after a lost answer"
        goes_on = dataclasses.replace(stream, epoch=2, worker=str(write.worker))
        assert await log.find(stream.id) == goes_on
        assert await log.open_streams_of(goes_on.worker, 10) == [goes_on]
        assert await log.append([add(stream, *events(3, 1))]) == [FENCED], "the old writer"
        assert (await log.purge(1e12, 100)).streams == 0
        last = add(stream, *events(3, 2, epoch=2), epoch=2, ending=ending(4))
        assert await winner.append([last]) == [COMMITTED]
        again = add(stream, epoch=3, takes_over=2, worker="three")
        assert await other.append([again]) == [COMMITTED]
        assert await numbers(log, stream) == [1, 2, 3, 4]

    async def test_a_sessions_own_stream_goes_on_no_more_when_the_session_was_forgotten(
        self,
        log: EventLog,
    ) -> None:
        stream = dataclasses.replace(record(), kind=StreamKind.GET)
        await log.append([new(stream, *events(1, 2), ending=ending(2))])
        await log.expire_session("default", stream.owner.path, stream.owner.session)
        again = add(stream, epoch=2, takes_over=1, worker="two")
        assert await log.append([again]) == [FENCED]
        assert (await log.purge(1.0, 100)).streams == 1

    async def test_a_stream_that_goes_on_after_a_takeover_is_one_workers(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream = dataclasses.replace(record(worker="dead"), request=b"again?")
        await log.append([new(stream, *events(1, 2))])
        assert await log.find(stream.id) == stream
        takes = [
            (each, add(stream, epoch=2, takes_over=1, worker=name))
            for name, each in (("one", log), ("two", other))
        ]
        outcomes = await asyncio.gather(*(each.append([write]) for each, write in takes))
        assert sorted(outcomes, key=str) == [[COMMITTED], [FENCED]]
        winner, write = takes[outcomes.index([COMMITTED])]
        assert await winner.append([write]) == [COMMITTED], "a retry after a lost answer"
        found = await log.find(stream.id)
        assert found == dataclasses.replace(stream, epoch=2, worker=write.worker or "")
        assert await log.open_streams_of("dead", 10) == []
        assert await log.append([add(stream, *events(3, 1))]) == [FENCED]
        assert await log.append(
            [add(stream, *events(3, 1, epoch=2), epoch=2, ending=ending(3))]
        ) == [COMMITTED]
        found = await log.find(stream.id)
        assert found is not None
        assert found.request is None, "what has ended is not run again"

    async def test_a_retried_batch_is_committed_and_not_doubled(self, log: EventLog) -> None:
        begun, plain, taken = record(), record(), record()
        await log.append([new(plain), new(taken, *events(1, 1))])
        batch = [
            new(begun, *events(1, 3), ending=ending(3)),
            add(plain, *events(1, 2)),
            add(taken, *events(2, 1, epoch=2), epoch=2, takes_over=1, ending=ending(2)),
            new(record()),
        ]
        for _ in range(3):
            assert await log.append(batch) == [COMMITTED] * 4
        assert await numbers(log, begun) == [1, 2, 3]
        assert await numbers(log, plain) == [1, 2]
        assert await numbers(log, taken) == [1, 2]
        found = await log.find(begun.id)
        assert found is not None
        assert (found.state, found.last_sequence) == (StreamState.COMPLETE, 3)

    async def test_an_entry_half_of_which_is_there_is_not_taken_for_a_retry(
        self, log: EventLog
    ) -> None:
        stream = record()
        await log.append([new(stream, *events(1, 2))])
        assert await log.append([add(stream, *events(2, 2))]) == [REJECTED]
        assert await numbers(log, stream) == [1, 2]

    async def test_poison_is_rejected_whole_and_harms_nobody(self, log: EventLog) -> None:
        good, bad, ended = record(), record(), record()
        await log.append([new(good), new(bad), new(ended)])
        doubled = (*events(1, 1), *events(1, 1))
        batch: list[StreamWrite] = [
            add(good, *events(1, 2)),
            add(bad, *doubled, ending=ending(1)),
            add(ended, *events(1, 1), ending=ending(1)),
            new(begun := record(), *doubled),
        ]
        assert await log.append(batch) == [COMMITTED, REJECTED, COMMITTED, REJECTED]
        assert [await numbers(log, stream) for stream in (good, bad, ended)] == [[1, 2], [], [1]]
        assert await log.find(begun.id) is None
        found = await log.find(bad.id)
        assert found is not None
        assert found.state is StreamState.OPEN

    async def test_a_number_that_no_store_holds_is_rejected(self, log: EventLog) -> None:
        stream, good = record(), record()
        await log.append([new(stream), new(good)])
        huge = Event(2**70, 1, EventKind.MESSAGE, b"x")
        assert await log.append([add(stream, huge), add(good, *events(1, 1))]) == [
            REJECTED,
            COMMITTED,
        ]

    async def test_two_workers_write_to_one_store_without_loss(
        self, log: EventLog, other: EventLog
    ) -> None:
        async def write(worker: EventLog) -> None:
            stream = record()
            streams.append(stream)
            assert await worker.append([new(stream)]) == [COMMITTED]
            for n in range(40):
                entry = add(stream, *events(n * 3 + 1, 3))
                assert await worker.append([entry]) == [COMMITTED]

        streams: list[object] = []
        async with asyncio.timeout(60):
            await asyncio.gather(*(write(worker) for worker in (log, other) * 3))
        for stream in streams:
            assert await numbers(other, stream) == list(range(1, 121))  # type: ignore[arg-type]

    async def test_a_closed_log_fails_with_a_store_error(self, log: EventLog) -> None:
        await log.aclose()
        await log.aclose()
        for call in (log.ping(), log.append([new(record())]), log.find(record().id)):
            with pytest.raises(StoreError):
                await call

    async def test_text_of_any_kind_is_one_streams_own_and_comes_back(self, log: EventLog) -> None:
        paths = ["/a\0b", "/a\uffff0b", "/a\uffff", "/\0", "/ä\U0001f600'\"\\%s"]
        strange = [record(path=path, session=path[1:]) for path in paths]
        good = record()
        batch = [new(stream, *events(1, 1)) for stream in [*strange, good]]
        assert await log.append(batch) == [COMMITTED] * len(batch)
        for stream in strange:
            assert await log.find(stream.id) == stream
            await log.expire_session("default", stream.owner.path, stream.owner.session)
        assert (await log.purge(1.0, 100)).streams == 5
        assert await log.find(good.id) == good

    @pytest.mark.parametrize("also", ["events", "the end", "nothing else", "a takeover"])
    async def test_whose_a_stream_is_may_be_known_later(self, log: EventLog, also: str) -> None:
        stream, other = record(), record()
        await log.append([new(stream, *events(1, 2)), new(other)])
        write = StreamWrite(stream.id, 1, principal="somebody~cookie:1")
        if also == "events":
            write.events = tuple(events(3, 2))
        elif also == "the end":
            write.ending = ending(2)
        elif also == "a takeover":
            write.epoch, write.takes_over, write.worker = 2, 1, "another"
        assert await log.append([add(other, *events(1, 1)), write]) == [COMMITTED] * 2
        found, neighbour = await log.find(stream.id), await log.find(other.id)
        assert found is not None
        assert neighbour is not None
        owner = dataclasses.replace(stream.owner, principal="somebody~cookie:1")
        assert (found.owner, neighbour.owner) == (owner, other.owner)
        assert await numbers(log, stream) == [1, 2, 3, 4][: 4 if also == "events" else 2]
        # Whoever does not hold the stream gives it to nobody.
        assert await log.append([StreamWrite(stream.id, 7, principal="a thief")]) == [FENCED]
        found = await log.find(stream.id)
        assert found is not None
        assert found.owner == owner
