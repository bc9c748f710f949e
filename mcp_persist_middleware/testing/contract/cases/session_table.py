"""The registry of sessions: who has which, once, for every worker."""

import asyncio
import dataclasses

from mcp_persist_middleware.store import EventLog, SessionStreamState
from mcp_persist_middleware.testing.contract.builders import session


class SessionTable:
    """The registry of sessions: who has which, once, for every worker."""

    async def test_a_session_is_found_by_every_worker_as_it_was_made(
        self, log: EventLog, other: EventLog
    ) -> None:
        made = dataclasses.replace(session(), began_at=1700.25)
        assert await log.sessions.create(made)
        assert await other.sessions.find(made.key) == made
        for key in (session("t").key, session(path="/b").key, made.key._replace(namespace="n")):
            assert await log.sessions.find(key) is None

    async def test_an_id_is_given_once_also_after_its_deletion(
        self, log: EventLog, other: EventLog
    ) -> None:
        made = session()
        assert [await log.sessions.create(made), await other.sessions.create(made)] == [True, False]
        await log.sessions.delete(made.key, 3000.0)
        assert not await other.sessions.create(made)
        assert await other.sessions.create(session(path="/b"))

    async def test_of_many_who_want_a_session_one_gets_it(
        self, log: EventLog, other: EventLog
    ) -> None:
        made = session()
        await log.sessions.create(made)
        moves = [
            worker.sessions.move(made.key, 1, f"w{n}") for n, worker in enumerate([log, other] * 5)
        ]
        assert sorted(await asyncio.gather(*moves)) == [False] * 9 + [True]
        found = await log.sessions.find(made.key)
        assert found is not None
        assert found.generation == 2
        assert not await log.sessions.move(made.key, 1, "late")

    async def test_a_deleted_session_is_nobodys_and_says_no_more(self, log: EventLog) -> None:
        made = session()
        await log.sessions.create(made)
        await log.sessions.note(dataclasses.replace(made, level="debug", subscriptions=("a://1",)))
        await log.sessions.delete(made.key, 3000.0)
        assert not await log.sessions.move(made.key, 1, "two")
        other = session("lives")
        await log.sessions.create(other)
        assert await log.sessions.touch([made.key, other.key], 9000.0) == 1
        found = await log.sessions.find(made.key)
        assert found is not None
        assert (found.deleted, found.initialize, found.expires_at) == (True, b"", 3000.0)
        assert (found.level, found.subscriptions) == ("", ())

    async def test_a_home_that_a_session_has_left_neither_deletes_it_nor_says_more_of_it(
        self, log: EventLog, other: EventLog
    ) -> None:
        made = session()
        await log.sessions.create(made)
        assert await other.sessions.move(made.key, 1, "two")
        await log.sessions.note(dataclasses.replace(made, level="debug"))
        assert not await log.sessions.delete(made.key, 3000.0, 1)
        found = await log.sessions.find(made.key)
        assert found is not None
        assert (found.generation, found.level, found.deleted) == (2, "", False)
        assert await other.sessions.delete(made.key, 3000.0, 2)
        # It is over, whoever asks.
        assert await log.sessions.delete(made.key, 3000.0, 1)
        assert await other.sessions.delete(made.key._replace(id="never"), 3000.0, 1)
        await other.sessions.note(dataclasses.replace(found, level="debug"))
        found = await log.sessions.find(made.key)
        assert found is not None
        assert (found.deleted, found.level) == (True, "")

    async def test_what_revival_repeats_is_kept(self, log: EventLog, other: EventLog) -> None:
        made = session()
        await log.sessions.create(made)
        changed = dataclasses.replace(
            made, fingerprint="f", level="debug", subscriptions=("a://1", "ü://2")
        )
        await log.sessions.note(changed)
        assert await other.sessions.find(made.key) == changed

    async def test_what_is_used_expires_later_and_what_has_expired_is_purged(
        self, log: EventLog
    ) -> None:
        kept = [session(f"k{n}", expires_at=10.0) for n in range(3)]
        gone = [session(f"g{n}", expires_at=10.0 + n) for n in range(5)]
        for made in kept + gone:
            await log.sessions.create(made)
        await log.sessions.touch([made.key for made in kept], 5000.0)
        await log.sessions.touch([], 9.0)
        assert [await log.sessions.purge(13.5, 3), await log.sessions.purge(13.5, 3)] == [3, 1]
        assert await log.sessions.purge(13.5, 3) == 0
        left = [await log.sessions.find(made.key) for made in gone]
        assert [found is not None for found in left] == [False] * 4 + [True]
        for made in kept:
            found = await log.sessions.find(made.key)
            assert found is not None
            assert found.expires_at == 5000.0

    async def test_a_turn_is_taken_once_and_held_until_another_takes_the_next(
        self, log: EventLog, other: EventLog
    ) -> None:
        made, stream = session(), bytes(range(16))
        assert await log.sessions.stream_state(made.key) is None
        await log.sessions.create(made)
        await other.sessions.begin_stream(made.key, stream)
        tries = [worker.sessions.activate(made.key, 0, "one") for worker in [log, other] * 5]
        assert sorted(await asyncio.gather(*tries)) == [False] * 9 + [True]
        assert await log.sessions.checkpoint(made.key, 1, "", stream, 7)
        assert await other.sessions.stream_state(made.key) == SessionStreamState(1, "", stream, 7)
        assert await other.sessions.activate(made.key, 1, "two")
        # Its last word on what was read still counts, and nothing else of it.
        assert not await log.sessions.checkpoint(made.key, 1, "one", stream, 9)
        assert not await log.sessions.checkpoint(made.key, 1, "one", stream, 8)
        assert not await log.sessions.checkpoint(made.key, 1, "one", bytes(16), 99)
        held = SessionStreamState(2, "two", stream, 9)
        assert await other.sessions.stream_state(made.key) == held
        assert await other.sessions.checkpoint(made.key, 2, "two", bytes(16), 99)
        assert await log.sessions.stream_state(made.key) == held

    async def test_a_session_knows_the_one_stream_of_its_own_and_how_far_it_was_read(
        self, log: EventLog, other: EventLog
    ) -> None:
        made, one, two = session(), b"1" * 16, b"2" * 16
        await log.sessions.create(made)
        assert await other.sessions.stream_state(made.key) == SessionStreamState()
        await log.sessions.begin_stream(made.key, one)
        await log.sessions.checkpoint(made.key, 0, "w", one, 3)
        await other.sessions.begin_stream(made.key, one)
        assert await other.sessions.stream_state(made.key) == SessionStreamState(0, "w", one, 3)
        await other.sessions.begin_stream(made.key, two)
        # A late word on the one before it changes nothing.
        await log.sessions.checkpoint(made.key, 0, "w", one, 9)
        assert await log.sessions.stream_state(made.key) == SessionStreamState(0, "w", two, 0)
