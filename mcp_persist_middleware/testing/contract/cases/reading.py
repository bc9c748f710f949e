"""Pages, holes and records of streams, and what retention leaves."""

from mcp_persist_middleware.store import Event, EventKind, EventLog, Removed
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    add,
    ending,
    events,
    new,
    numbers,
    record,
)


class Reading:
    """Pages, holes and records of streams, and what retention leaves."""

    async def test_a_page_holds_as_many_events_as_fit(self, log: EventLog) -> None:
        stream = record()
        sized = tuple(Event(n, 1, EventKind.MESSAGE, b"x" * 100) for n in range(1, 11))
        await log.append([new(stream, *sized)])
        for after, most, size, expected in [
            (0, 3, 10**6, [1, 2, 3]),
            (8, 3, 10**6, [9, 10]),
            (0, 100, 350, [1, 2, 3]),
            (3, 100, 400, [4, 5, 6, 7]),
            (0, 100, 1, [1]),
            (10, 100, 10**6, []),
            (99, 100, 10**6, []),
        ]:
            page = await log.read(stream.id, after, most, size)
            assert [event.sequence for event in page] == expected

    async def test_a_large_event_is_alone_in_its_page(self, log: EventLog) -> None:
        stream = record()
        large = Event(2, 1, EventKind.RESPONSE, b"y" * 10_000_000)
        await log.append([new(stream, *events(1, 1), large, *events(3, 2))])
        pages, after = [], 0
        while page := await log.read(stream.id, after, 256, 1 << 20):
            pages.append([event.sequence for event in page])
            after = page[-1].sequence
        assert pages == [[1], [2], [3, 4]]
        assert (await log.read(stream.id, 1, 256, 1 << 20)) == [large]

    async def test_a_stream_nobody_knows_has_nothing_to_read(self, log: EventLog) -> None:
        assert await log.read(record().id, 0, *ALL) == []
        assert await log.find(record().id) is None

    async def test_a_record_is_found_as_it_was_made(self, log: EventLog) -> None:
        stream = record()
        await log.append([new(stream, *events(1, 2))])
        assert await log.find(stream.id) == stream
        await log.append([add(stream, ending=ending(2, expires_at=7.5))])
        found = await log.find(stream.id)
        assert found is not None
        assert (found.last_sequence, found.ended_at, found.expires_at) == (2, 1500.0, 7.5)

    async def test_trimming_takes_the_cheapest_first_and_never_an_answer(
        self, log: EventLog
    ) -> None:
        stream = record()
        kinds = [EventKind.RESPONSE, EventKind.NOISE, EventKind.REQUEST, EventKind.MESSAGE] * 5
        written = tuple(Event(n, 1, kind, b"z") for n, kind in enumerate(kinds, 1))
        await log.append([new(stream, *written)])
        await log.append([add(stream, *events(21, 1), trim=5)])
        noise = {n for n, kind in enumerate(kinds, 1) if kind is EventKind.NOISE}
        assert await numbers(log, stream) == [n for n in range(1, 22) if n not in noise]
        await log.append([add(stream, *events(22, 1), trim=1000)])
        left = [event.kind for event in await log.read(stream.id, 0, *ALL)]
        assert left == [EventKind.RESPONSE, EventKind.REQUEST] * 5

    async def test_a_forgotten_session_is_gone_at_once_and_no_other(self, log: EventLog) -> None:
        mine, open_one, other, elsewhere = (
            record(session="a"),
            record(session="a"),
            record(session="b"),
            record(session="a", path="/b"),
        )
        await log.append([new(mine, *events(1, 1), ending=ending(1)), new(open_one, *events(1, 1))])
        await log.append([new(s, *events(1, 1), ending=ending(1)) for s in (other, elsewhere)])
        await log.expire_session("default", "/mcp", "a")
        for stream in (mine, open_one):
            found = await log.find(stream.id)
            assert found is not None
            assert found.expires_at == 0.0
        # Its end does not bring it back.
        await log.append([add(open_one, ending=ending(1))])
        found = await log.find(open_one.id)
        assert found is not None
        assert found.expires_at == 0.0
        assert (await log.purge(1.0, 1000)).streams == 2
        assert [await numbers(log, s) for s in (mine, open_one, other, elsewhere)] == [
            [],
            [],
            [1],
            [1],
        ]

    async def test_purge_goes_in_bounded_steps_and_keeps_what_has_not_expired(
        self, log: EventLog
    ) -> None:
        old = [record() for _ in range(60)]
        fresh, living = record(), record()
        await log.append([new(s, *events(1, 7), ending=ending(7, expires_at=10.0)) for s in old])
        await log.append([new(fresh, *events(1, 7), ending=ending(7, expires_at=11.0))])
        await log.append([new(living, *events(1, 7))])
        streams = total = steps = 0
        more = True
        while more:
            purged = await log.purge(10.5, 50)
            steps += 1
            assert purged.events <= 50
            assert steps < 100
            streams, total, more = streams + purged.streams, total + purged.events, purged.more
        assert (streams, total) == (60, 420)
        assert [await log.find(s.id) for s in old] == [None] * 60
        for stream in (fresh, living):
            assert await log.find(stream.id) is not None
            assert await numbers(log, stream) == list(range(1, 8))

    async def test_purge_says_what_it_removed_of_each_namespace(self, log: EventLog) -> None:
        for namespace, count in (("ann", 2), ("b\0b", 1), ("eve", 1)):
            for _ in range(count):
                stream = record(namespace=namespace)
                end = ending(3, expires_at=9.0 if namespace == "eve" else 1.0)
                await log.append([new(stream, *events(1, 3), ending=end)])
        purged = await log.purge(2.0, 100)
        assert dict(purged.removed) == {"ann": Removed(2, 6), "b\0b": Removed(1, 3)}
        assert (purged.streams, purged.events, purged.more) == (3, 9, False)

    async def test_short_streams_go_many_at_a_time(self, log: EventLog) -> None:
        for _ in range(3):
            old = [record() for _ in range(300)]
            await log.append([new(s, *events(1, 1), ending=ending(1, expires_at=1.0)) for s in old])
        steps, streams, more = 0, 0, True
        while more:
            purged = await log.purge(2.0, 1000)
            steps, streams, more = steps + 1, streams + purged.streams, purged.more
        assert (streams, steps < 10) == (900, True), steps

    async def test_purge_of_one_huge_stream_stops_at_the_bound(self, log: EventLog) -> None:
        stream = record()
        await log.append([new(stream, *events(1, 500), ending=ending(500, expires_at=1.0))])
        purged = await log.purge(2.0, 100)
        assert (purged.streams, purged.events, purged.more) == (0, 100, True)
        assert await log.find(stream.id) is not None
        assert (await numbers(log, stream))[0] == 101

    async def test_the_open_streams_of_each_worker_are_found_the_oldest_first(
        self, log: EventLog
    ) -> None:
        mine, left, ended = record(), record(worker="two"), record(worker="two")
        more = [record(worker="two") for _ in range(3)]
        await log.append([new(mine), new(ended, ending=ending(0)), *map(new, (left, *more))])
        assert sorted(await log.active_writers()) == ["one", "two"]
        found = await log.open_streams_of("two", 10)
        assert {stream.id for stream in found} == {left.id, *(stream.id for stream in more)}
        assert found == sorted(found, key=lambda stream: stream.id)
        assert await log.open_streams_of("two", 2) == found[:2]
        assert await log.open_streams_of("two", 10, found[0].id) == found[1:]
        assert await log.open_streams_of("three", 10) == []
