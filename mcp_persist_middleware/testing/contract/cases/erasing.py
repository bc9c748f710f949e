"""Streams in the order of their age, and the removal of what belongs to somebody: what a store need
not have. A test of what yours has not is passed over."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterator

import pytest

from mcp_persist_middleware.store import (
    Deletion,
    Event,
    EventKind,
    EventLog,
    Purged,
    Reason,
    SessionKey,
    StreamRecord,
    StreamState,
    UnsupportedError,
    Whose,
)
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    FENCED,
    KEY,
    add,
    begin_session,
    claim,
    ending,
    events,
    new,
    numbers,
    record,
    relayed,
    session,
)

ANN, BEN = (Whose(principals=frozenset({name})) for name in ("ann", "ben"))
NOBODY = Whose(principals=frozenset())


@contextlib.contextmanager
def where_there_is() -> Iterator[None]:
    """Around what a store need not have."""
    try:
        yield
    except UnsupportedError as error:
        pytest.skip(str(error))


def of(principal: str, **more: str) -> StreamRecord:
    """A stream of this principal's."""
    made = record(**more)
    return dataclasses.replace(made, owner=dataclasses.replace(made.owner, principal=principal))


def aged(number: int, **more: str) -> StreamRecord:
    """A stream that is younger than those of lower numbers."""
    return dataclasses.replace(record(**more), id=bytes([number]) * 16)


async def ids(
    log: EventLog, whose: Whose | None = None, *, newest_first: bool = False
) -> list[bytes]:
    """All streams, or somebody's, two at a time."""
    found: list[bytes] = []
    with where_there_is():
        while page := (
            await log.streams(found[-1] if found else b"", 2, newest_first=newest_first)
            if whose is None
            else await log.streams_of(whose, found[-1] if found else b"", 2)
        ):
            found += [each.id for each in page]
    return found


async def removed(
    log: EventLog, streams: Collection[bytes], *, ended: bool = False
) -> list[Purged]:
    """The steps of their removal."""
    with where_there_is():
        steps = [await log.remove(streams, 5, ended=ended)]
        while steps[-1].more:
            steps.append(await log.remove(streams, 5, ended=ended))
    return steps


class Erasing:
    """What a store need not have."""

    async def test_all_streams_are_listed_by_age_from_either_end(self, log: EventLog) -> None:
        made = [aged(n) for n in range(1, 6)]
        await log.append([new(each, *events(1, 1)) for each in made[::2]])
        await log.append([new(each, *events(1, 1), ending=ending(1)) for each in made[1::2]])
        assert await ids(log) == [each.id for each in made]
        assert await ids(log, newest_first=True) == [each.id for each in reversed(made)]
        (first,) = await log.streams(b"", 1)
        assert first == await log.find(made[0].id)

    async def test_the_streams_of_a_principal_a_session_and_a_namespace_are_told_apart(
        self, log: EventLog
    ) -> None:
        hers, early, doubtful = of("ann"), of("early:ann~cookie:1"), of("ann~cookie:1")
        his, elsewhere, alone = of("ben"), of("anna", namespace="other"), of("", session="")
        await log.append([new(s) for s in (hers, early, doubtful, his, elsewhere, alone)])

        async def found(whose: Whose) -> set[bytes]:
            return set(await ids(log, whose))

        assert await found(ANN) == {hers.id, early.id, doubtful.id}
        assert await found(BEN) == {his.id}
        assert await found(NOBODY) == set()
        assert await found(Whose(namespace="other")) == {elsewhere.id}
        assert elsewhere.id in await found(Whose(session="s"))
        assert alone.id not in await found(Whose(session="s"))
        assert await found(dataclasses.replace(ANN, namespace="other")) == set()

    async def test_what_is_removed_is_gone_at_once_and_in_bounded_steps(
        self, log: EventLog, other: EventLog
    ) -> None:
        living, done, beside = record(), record(), record()
        await log.append([new(living, *events(1, 7)), new(beside, *events(1, 2))])
        await log.append([new(done, *events(1, 6), ending=ending(6))])
        steps = await removed(other, [living.id, done.id, b"\xff" * 16])
        assert len(steps) > 1
        assert all(step.events <= 5 for step in steps)
        total = [(step.streams, step.events) for step in steps]
        assert tuple(map(sum, zip(*total, strict=True))) == (2, 13)
        for reader in (log, other):
            assert [await reader.find(each.id) for each in (living, done)] == [None, None]
            assert await numbers(reader, living) == []
        assert await numbers(log, beside) == [1, 2]
        assert await log.append([add(beside, *events(3, 1))]) == [COMMITTED]

    async def test_what_a_deleted_session_has_left_for_followers_goes_at_once_when_it_is_erased(
        self, log: EventLog, other: EventLog
    ) -> None:
        await log.sessions.create(session())
        done, living = record(), record()
        just_now = dataclasses.replace(ending(3), ended_at=log.now())
        await log.append([new(done, *events(1, 3), ending=just_now), new(living, *events(1, 2))])
        await log.sessions.delete(KEY, log.now() + 3000.0)
        await log.expire_session(*KEY)
        with where_there_is():
            # Its client cannot read it any more, and it is somebody's still.
            assert {done.id, living.id} <= {*await ids(other, Whose(session=KEY.id))}
        await removed(other, [done.id, living.id])
        with where_there_is():
            assert KEY in await other.sessions.forget(Whose(session=KEY.id))
        for reader in (log, other):
            assert [await reader.find(each.id) for each in (done, living)] == [None, None]
            assert [await numbers(reader, each) for each in (done, living)] == [[], []]
            assert await reader.sessions.find(KEY) is None

    async def test_who_writes_a_stream_that_was_removed_is_fenced(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream = record()
        await log.append([new(stream, *events(1, 3))])
        await log.append([add(stream, *events(4, 3))])
        await removed(other, [stream.id])
        assert await log.append([add(stream, *events(7, 1))]) == [FENCED]
        assert await log.append([add(stream, *events(8, 1), ending=ending(8))]) == [FENCED]
        assert (await log.find(stream.id), await numbers(log, stream)) == (None, [])
        assert await ids(other) == []

    async def test_an_open_stream_is_left_where_only_ended_ones_are_to_go(
        self, log: EventLog
    ) -> None:
        living, done = record(), record()
        await log.append([new(living, *events(1, 2)), new(done, ending=ending(0))])
        await removed(log, [living.id, done.id], ended=True)
        found = await log.find(living.id)
        assert found is not None
        assert (found.state, found.expires_at) == (StreamState.OPEN, None)
        assert await log.find(done.id) is None
        assert await log.append([add(living, *events(3, 1))]) == [COMMITTED]

    async def test_the_sessions_of_somebody_are_removed_and_their_ids_are_told(
        self, log: EventLog
    ) -> None:
        kept = dataclasses.replace(session("kept"), principal="ben")
        await log.sessions.create(kept)
        for name in ("one", "two"):
            await log.sessions.create(session(name))
        await log.sessions.delete(SessionKey("default", "/mcp", "two"), 3000.0)
        with where_there_is():
            gone = await log.sessions.forget(ANN)
        assert {key.id for key in gone} == {"one", "two"}
        assert await log.sessions.find(KEY._replace(id="one")) is None
        assert await log.sessions.find(kept.key) == kept
        assert await log.sessions.forget(NOBODY) == []
        assert await log.sessions.forget(Whose(session="kept")) == [kept.key]

    async def test_the_relayed_requests_of_a_session_are_removed(self, log: EventLog) -> None:
        theirs = KEY._replace(id="theirs")
        await begin_session(log)
        await begin_session(log, theirs)
        waiting, beside = relayed(), relayed(key=theirs)
        for request in (waiting, beside):
            await log.inbox.put(request, 10)
        with where_there_is():
            assert await log.inbox.forget(lambda key: key == KEY, ("one", "two")) == 1
        assert [each.id for each in await claim(log, "one")] == [beside.id]
        assert await log.inbox.look(waiting.name) is None
        assert await log.inbox.forget(lambda _: False, ("one", "two")) == 0

    async def test_the_newest_stream_that_is_one_too_many_is_found_by_number_and_by_bytes(
        self, log: EventLog
    ) -> None:
        made = [aged(n) for n in range(1, 6)]
        others = [aged(6, namespace="other"), aged(7)]
        await log.append([new(each, *events(1, 2), ending=ending(2)) for each in made])
        await log.append([new(others[0], ending=ending(0)), new(others[1], *events(1, 9))])
        size = sum(len(event.frame) for event in events(1, 2))
        with where_there_is():
            assert await log.beyond("default", 2) == made[2].id
        assert await log.beyond("default", 5) == b""
        assert await log.beyond("default", 0) == made[4].id
        assert await log.beyond("nobody's", 0) == b""
        assert await log.beyond("default", 2 * size, in_bytes=True) == made[2].id
        assert await log.beyond("default", 2 * size - 1, in_bytes=True) == made[3].id
        assert await log.beyond("default", 5 * size, in_bytes=True) == b""
        assert set(await log.namespaces()) == {"default", "other"}

    async def test_a_store_is_smaller_when_something_was_removed(self, log: EventLog) -> None:
        large = record()
        frame = Event(1, 1, EventKind.MESSAGE, b"x" * 300_000)
        with where_there_is():
            before = await log.size()
        await log.append([new(large, frame, ending=ending(1))])
        full = await log.size()
        assert full - before >= 290_000
        await removed(log, [large.id])
        assert await log.size() <= full - 290_000

    async def test_what_was_removed_is_told_the_newest_first_and_no_more_than_is_kept(
        self, log: EventLog, other: EventLog
    ) -> None:
        told = [Deletion(float(n), Reason.AGE, "default", "events", n) for n in range(1, 4)]
        with where_there_is():
            assert await log.deletions(10) == []
        for each in told:
            await log.note_deletions([each])
        assert await other.deletions(2) == [told[2], told[1]]
        assert await other.deletions(10) == told[::-1]
