"""Relayed requests in a Redis that forgets, fails over, comes back with an older file, or is away:
none is run twice, and none that its sender was told was not run."""

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import (
    Certainty,
    EnqueueResult,
    RelayRequest,
    RelayState,
    RelayStatus,
    SessionKey,
)
from mcp_persist_middleware.stores.redis import requests
from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.inbox import RedisInbox
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.testing.contract.builders import KEY, begin_session, relayed
from tests.contract.redis_builders import Place, is_up
from tests.contract.test_redis_cluster import cluster
from tests.support.scripted import until
from tests.support.stores import RedisServer

pytestmark = pytest.mark.timeout(60)
__all__ = ["cluster"]

ANSWERED = RelayStatus(RelayState.REPLIED, "one", b"done")


class Pair:
    """An addressee and a sender, two workers on one place."""

    def __init__(self, place: Place, one: RedisLog, two: RedisLog) -> None:
        self.place = place
        self.one = one
        self.two = two
        self.home, self.sender = one.inbox, two.inbox
        assert isinstance(self.home, RedisInbox)
        assert isinstance(self.sender, RedisInbox)

    async def claim(self, limit: int = 100) -> list[RelayRequest]:
        """What the addressee gets."""
        now = time.time()
        return await self.home.claim("one", limit, now, now + 60)

    async def served(self) -> list[bytes]:
        """The same: the ids of those it runs."""
        return [each.id for each in await self.claim() if not each.not_executable]

    async def put(self, **more: Any) -> RelayRequest:
        """A relayed request that waits, in Redis."""
        sent = fresh(**more)
        assert await self.sender.put(sent, 100) is EnqueueResult.ENQUEUED
        return sent

    async def answer(self, sent: RelayRequest, reply: bytes = b"done") -> bool:
        """Answer it."""
        return await self.home.answer(sent.id, "one", reply, time.time() + 60)

    async def both_up(self) -> None:
        """Both use Redis."""
        await is_up(self.one)
        await is_up(self.two)

    def keys(self) -> list[bytes]:
        """All that lies in Redis for relayed requests."""
        with contextlib.closing(self.place.client) as client:
            return list(client.scan_iter("*{w:*"))


def fresh(**more: Any) -> RelayRequest:
    return relayed(deadline=time.time() + 20, **more)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A Redis of this test's own."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield Place(tmp_path, server)
    server.stop(signal.SIGKILL)


@contextlib.asynccontextmanager
async def workers(place: Place, **more: Any) -> AsyncIterator[Pair]:
    async with place.worker("one", **more) as one, place.worker("two", **more) as two:
        await begin_session(one)
        yield Pair(place, one, two)


@pytest.fixture
async def pair(place: Place) -> AsyncIterator[Pair]:
    """Two workers who use it."""
    async with workers(place) as made:
        yield made


async def in_sql(pair: Pair) -> list[bytes]:
    """The ids of the relayed requests that lie in SQL."""
    inner = pair.one._inner.inbox
    return [each.id for each in await inner.claim("one", 100, time.time(), time.time() + 60)]


# Where relayed requests lie.


async def test_requests_lie_in_redis_and_every_key_has_an_end(pair: Pair) -> None:
    waiting, claimed, answered, withdrawn = [await pair.put() for _ in range(4)]
    assert await pair.sender.withdraw(withdrawn.name)
    got = await pair.claim(2)
    assert len(got) == 2
    await pair.answer(got[0])
    assert await in_sql(pair) == []
    keys = pair.keys()
    assert len(keys) >= 7
    with contextlib.closing(pair.place.client) as client:
        assert [key for key in keys if client.pttl(key) <= 0] == []
    assert {waiting.id, claimed.id, answered.id} >= {each.id for each in got}


async def test_what_is_large_lies_in_sql_and_its_addressee_is_told(pair: Pair) -> None:
    keys = pair.keys()
    sent = await pair.put(content=b"x" * 65_537)
    assert pair.keys() == keys
    pair.home._sql_due = time.monotonic() + 60  # type: ignore[attr-defined]
    got: list[RelayRequest] = []
    async with asyncio.timeout(5):
        while not got:
            got = await pair.claim()
    assert got == [sent]
    assert await pair.answer(sent)
    assert await pair.sender.look(sent.name) == ANSWERED


async def test_a_large_reply_lies_in_sql(pair: Pair) -> None:
    sent = await pair.put()
    await pair.claim()
    reply = b"y" * 65_537
    assert await pair.answer(sent, reply)
    assert not await pair.answer(sent, b"no")
    with contextlib.closing(pair.place.client) as client:
        assert max(map(client.memory_usage, pair.keys())) < 4096
    found = await pair.sender.look(sent.name)
    assert found == RelayStatus(RelayState.REPLIED, "one", reply)
    await pair.sender.remove([sent.name])
    assert await pair.sender.look(sent.name) is None
    assert await pair.one._inner.inbox.look(sent.name) is None


async def test_where_redis_does_not_say_which_server_it_is_requests_lie_in_sql(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(place.client) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all", "-info")
    url = f"redis://u:pw@127.0.0.1:{place.server.port}"
    async with workers(place, redis=url) as pair:
        sent = await pair.put()
        assert await in_sql(pair) == [sent.id]
    assert any("relayed requests between workers lie in SQL" in text for text in caplog.messages)


async def test_requests_of_many_workers_lie_in_the_slots_of_a_cluster(
    cluster: list[RedisServer], tmp_path: Path
) -> None:
    place = Place(tmp_path, cluster[0])
    place.settings["redis"] = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    async with workers(place) as pair:
        for n in range(12):
            name, now = f"worker{n}", time.time()
            assert await pair.home.claim(name, 9, now, now + 60) == []
            sent = fresh(worker=name)
            assert await pair.sender.put(sent, 9) is EnqueueResult.ENQUEUED
            (got,) = await pair.home.claim(name, 9, now, now + 60)
            assert got.content == sent.content
            assert await pair.home.answer(sent.id, name, b"done", now + 60)
            found = await pair.sender.look(sent.name)
            assert found is not None
            assert found.reply == b"done"
            back = fresh(worker=name)
            assert await pair.sender.put(back, 9) is EnqueueResult.ENQUEUED
            assert await pair.sender.withdraw(back.name)
            await pair.sender.remove([sent.name])
        held = []
        for node in cluster:
            with contextlib.closing(redis.Redis(port=node.port)) as client:
                held.append(len(list(client.scan_iter("*{w:*"))))
        assert min(held) > 0


async def test_the_first_reply_stands(pair: Pair) -> None:
    sent = await pair.put()
    await pair.claim()
    assert isinstance(pair.home, RedisInbox)
    box, answers = pair.home._box("one"), []
    for reply in (b"done", b"not run"):
        answers += await pair.one._client.run([box.answer(sent.id, reply, 60_000, "c", "A")])
    assert answers == [1, 0]
    assert await pair.sender.look(sent.name) == ANSWERED


# Redis loses its memory.


async def test_a_request_that_was_flushed_is_not_run_and_its_sender_is_not_told_so(
    pair: Pair,
) -> None:
    sent = await pair.put()
    with contextlib.closing(pair.place.client) as client:
        client.flushall()
    assert not await pair.sender.withdraw(sent.name)
    assert await pair.sender.look(sent.name) is None
    assert await pair.served() == []
    # It goes on.
    assert await pair.served() == []
    after = await pair.put()
    assert await pair.served() == [after.id]


async def test_a_request_is_enqueued_as_soon_as_its_addressee_has_looked_into_a_flushed_redis(
    pair: Pair,
) -> None:
    await pair.put()
    with contextlib.closing(pair.place.client) as client:
        client.flushall()
    sent = fresh()
    putting = asyncio.create_task(pair.sender.put(sent, 9))
    await asyncio.sleep(0.2)
    assert await pair.served() == []
    assert await putting is EnqueueResult.ENQUEUED
    assert await pair.served() == [sent.id]


async def test_the_reply_to_a_request_that_was_flushed_arrives(pair: Pair) -> None:
    sent = await pair.put()
    assert await pair.served() == [sent.id]
    with contextlib.closing(pair.place.client) as client:
        client.flushall()
    assert await pair.answer(sent)
    assert await pair.sender.look(sent.name) == ANSWERED


FILES = {
    "snapshot": ("dump.rdb", ()),
    "append-only file": ("appendonly.aof", ("--appendonly", "yes", "--appendfsync", "always")),
}


@pytest.mark.parametrize("kind", FILES)
async def test_what_an_older_file_brings_back_is_not_run(tmp_path: Path, kind: str) -> None:
    name, arguments = FILES[kind]
    server = RedisServer(tmp_path / "redis", *arguments)
    server.start()
    file, older = server.directory / name, tmp_path / "older"
    try:
        async with workers(Place(tmp_path, server)) as pair:
            claimed, withdrawn, waiting = [await pair.put() for _ in range(3)]
            with contextlib.closing(pair.place.client) as client:
                client.save()
            shutil.copy(file, older)
            assert await pair.sender.withdraw(withdrawn.name)
            got = [each.id for each in await pair.claim(1)]
            assert got in ([claimed.id], [waiting.id])
            server.stop(signal.SIGKILL)
            shutil.copy(older, file)
            server.start()
            await pair.both_up()
            with contextlib.closing(pair.place.client) as client:
                assert len(list(client.scan_iter("*:l:*"))) == 3
            for each in (claimed, withdrawn, waiting):
                found = await pair.sender.look(each.name)
                assert found is not None
                assert found.certainty is Certainty.UNKNOWN
                assert not await pair.sender.withdraw(each.name)
            back = await pair.claim()
            assert all(each.not_executable for each in back)
            # Of the one that it had it says nothing, for it runs.
            assert {each.id for each in back} == {
                each.id for each in (claimed, withdrawn, waiting) if each.id not in got
            }
            for each in back:
                assert await pair.home.answer(each.id, "one", b"not run", time.time() + 60)
            after = await pair.put()
            assert await pair.served() == [after.id]
    finally:
        server.stop(signal.SIGKILL)


@pytest.fixture
async def torn(pair: Pair, tmp_path: Path) -> AsyncIterator[Callable[[], Any]]:
    """Promotes a replica that has had everything so far; clients of the promoted one."""
    server = RedisServer(
        tmp_path / "replica", "--replicaof", "127.0.0.1", str(pair.place.server.port)
    )
    server.start()
    other = Place(tmp_path, server)
    with contextlib.closing(pair.place.client) as client:
        await until(lambda: client.wait(1, 100) == 1)
    # The first replica gives its primary another history, and so another token.
    assert await pair.claim() == []
    async with contextlib.AsyncExitStack() as stack:

        async def promote() -> tuple[Any, Any]:
            with contextlib.closing(pair.place.client) as client:
                await until(lambda: client.wait(1, 100) == 1)
            with contextlib.closing(other.client) as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
            made = [await stack.enter_async_context(other.worker(n)) for n in ("3", "4")]
            return made[0]._client, made[1]._client

        yield promote
    server.stop(signal.SIGKILL)


async def test_what_a_replica_that_was_behind_brings_back_is_not_run(
    pair: Pair, torn: Callable[[], Any]
) -> None:
    withdrawn, claimed = await pair.put(), await pair.put()
    home, sender = await torn()
    assert await pair.sender.withdraw(withdrawn.name)
    assert await pair.served() == [claimed.id]
    pair.home._client, pair.sender._client = home, sender  # type: ignore[attr-defined]
    assert not await pair.sender.withdraw(claimed.name)
    assert [(each.id, each.not_executable) for each in await pair.claim()] == [(withdrawn.id, True)]
    # Its reply reaches the sender all the same.
    assert await pair.answer(claimed)
    assert await pair.sender.look(claimed.name) == ANSWERED


async def test_of_two_halves_that_both_think_they_are_primary_neither_runs_what_the_other_took_back(
    pair: Pair, torn: Callable[[], Any]
) -> None:
    first, second = await pair.put(), await pair.put()
    home, sender = await torn()
    before = pair.sender._client  # type: ignore[attr-defined]
    # The sender is on the other side: it knows nothing, and says so.
    pair.sender._client = sender  # type: ignore[attr-defined]
    assert not await pair.sender.withdraw(first.name)
    found = await pair.sender.look(first.name)
    assert found is not None
    assert found.certainty is Certainty.UNKNOWN
    # The addressee is.
    pair.sender._client = before  # type: ignore[attr-defined]
    assert await pair.sender.withdraw(second.name)
    pair.home._client = home  # type: ignore[attr-defined]
    assert await pair.served() == []


# Answers that were lost.


def losing(pair: Pair, worker: RedisLog, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The next call with this text is done, and its answer lost."""
    real, left = worker._client.run, [text]

    async def run(calls: Any) -> Any:
        replies = await real(calls)
        if left and any(left[0] in str(call.whole[:2]) for call in calls):
            left.pop()
            raise RedisAwayError("lost")
        return replies

    monkeypatch.setattr(worker._client, "run", run)


async def test_a_put_whose_answer_was_lost_is_there(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.put()
    losing(pair, pair.two, monkeypatch, "'ZADD'")
    sent = fresh()
    with pytest.raises(StoreError):
        await pair.sender.put(sent, 9)
    assert not await pair.sender.tombstone(sent.name, sent.deadline)
    assert await pair.sender.withdraw(sent.name)
    # A late attempt posts it no more.
    with pytest.raises(StoreError):
        await pair.sender.put(sent, 9)
    assert sent.id not in await pair.served()


async def test_a_put_that_may_have_been_lost_with_a_memory_is_not_said_to_be_tombstoned(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.put()
    losing(pair, pair.two, monkeypatch, "'ZADD'")
    sent = fresh()
    with pytest.raises(StoreError):
        await pair.sender.put(sent, 9)
    assert sent.id in await pair.served()
    with contextlib.closing(pair.place.client) as client:
        client.flushall()
    await pair.served()
    assert not await pair.sender.tombstone(sent.name, sent.deadline)


async def test_a_claim_whose_answer_was_lost_is_given_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await pair.put()
    losing(pair, pair.one, monkeypatch, "'ZRANGE'")
    assert await pair.claim() == []
    (got,) = await pair.claim()
    assert (got.id, got.not_executable) == (sent.id, True)
    assert await pair.answer(got, b"not run")
    assert await pair.claim() == []


async def test_a_question_that_is_late_claims_nothing(pair: Pair) -> None:
    home = pair.home
    assert isinstance(home, RedisInbox)
    now, number = time.time(), home._questions + 1
    late = home._box("one").claim(b"x", home._who, number, 9, now, 60_000, now + 60)
    await pair.claim()
    sent = await pair.put()
    assert await pair.one._client.run([late]) == [[0]]
    assert await pair.served() == [sent.id]


# Redis is away, and comes back.


async def test_requests_go_to_sql_while_redis_is_away_and_none_is_lost_or_run_twice(
    pair: Pair,
) -> None:
    ran: list[bytes] = []
    sent: list[RelayRequest] = []
    lost: list[RelayRequest] = []
    for phase in range(3):
        if phase == 1:
            pair.place.server.stop(signal.SIGKILL)
        elif phase == 2:
            pair.place.server.start()
            await pair.both_up()
        for _ in range(20):
            new = fresh()
            try:
                async with asyncio.timeout(10):
                    putting = asyncio.create_task(pair.sender.put(new, 100))
                    while not putting.done():
                        ran += await pair.served()
                        await asyncio.sleep(0.01)
                    assert await putting is EnqueueResult.ENQUEUED
            except StoreError:
                lost.append(new)
            else:
                sent.append(new)
            ran += await pair.served()
    async with asyncio.timeout(5):
        while {each.id for each in sent} - set(ran):
            ran += await pair.served()
            await asyncio.sleep(0.05)
    assert len(set(ran)) == len(ran)
    assert len(lost) <= 2
    assert len(sent) >= 58
    for each in sent:
        assert await pair.answer(each)
        assert await pair.sender.look(each.name) == ANSWERED


async def test_a_reply_while_redis_is_away_stands_in_sql(pair: Pair) -> None:
    sent = await pair.put()
    assert await pair.served() == [sent.id]
    pair.place.server.stop(signal.SIGKILL)
    pair.one._client.leave("a test")
    pair.two._client.leave("a test")
    with pytest.raises(StoreError):
        await pair.sender.look(sent.name)
    assert await pair.answer(sent)
    assert await pair.sender.look(sent.name) == ANSWERED


async def test_a_request_whose_addressee_looks_into_redis_no_more_is_taken_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "OPEN", 200)
    await pair.claim()
    sent = await pair.put()
    pair.one._client.leave("a test")
    watching, pair.one._client._watching = pair.one._client._watching, None
    assert watching is not None
    watching.cancel()

    async def stranded() -> bool:
        found = await pair.sender.look(sent.name)
        return found is not None and found.certainty is Certainty.UNDELIVERABLE

    async with asyncio.timeout(5):
        while not await stranded():
            await asyncio.sleep(0.02)
    assert await pair.sender.withdraw(sent.name)
    after = await pair.put()
    assert [each.id for each in await pair.claim()] == [after.id]


# Any order of events.


class Model:
    """What was run, and what was said of it."""

    def __init__(self, pair: Pair, client: redis.Redis) -> None:
        self.pair = pair
        self.client = client
        self.sent: list[RelayRequest] = []
        self.ran: list[bytes] = []
        self.told: set[bytes] = set()
        self.older: dict[bytes, tuple[int, bytes]] = {}

    async def put(self) -> None:
        new = fresh(key=SessionKey("default", "/mcp", KEY.id))
        with contextlib.suppress(StoreError):
            if await self.pair.sender.put(new, 1000) is EnqueueResult.ENQUEUED:
                self.sent.append(new)

    async def claim(self, limit: int = 2) -> None:
        for each in await self.pair.claim(limit):
            if each.not_executable:
                self.told.add(each.id)
                await self.pair.answer(each, b"not run")
            else:
                self.ran.append(each.id)

    async def withdraw(self) -> None:
        for each in self.sent[-3:]:
            if await self.pair.sender.withdraw(each.name):
                self.told.add(each.id)

    async def tombstone(self) -> None:
        new = fresh()
        assert isinstance(self.pair.sender, RedisInbox)
        self.pair.sender._doubts[new.id] = self.pair.sender._tokens.get("one", b"")
        if await self.pair.sender.tombstone(new.name, new.deadline):
            self.told.add(new.id)
        with contextlib.suppress(StoreError):
            await self.pair.sender.put(new, 1000)

    async def answer(self) -> None:
        for each in self.ran[-2:]:
            await self.pair.home.answer(each, "one", b"done", time.time() + 60)

    async def save(self) -> None:
        self.older = {
            key: (self.client.pttl(key), bytes(self.client.dump(key) or b""))
            for key in self.client.scan_iter("*{w:*")
        }

    async def flush(self) -> None:
        self.client.flushall()
        # Nobody waits here for the addressee's next look.
        await self.claim()

    async def restore(self) -> None:
        """Another server, with an older file."""
        self.client.flushall()
        self.client.execute_command("DEBUG", "CHANGE-REPL-ID")
        for key, (left, value) in self.older.items():
            self.client.restore(key, left, value)
        if self.older:
            await self.withdraw()
        await self.claim()


STEPS = ("put", "put", "claim", "withdraw", "tombstone", "answer", "save", "flush", "restore")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(STEPS), max_size=24))
@example(["put", "put", "save", "withdraw", "restore", "claim"])
@example(["put", "put", "save", "claim", "restore", "claim", "withdraw"])
@example(["put", "save", "claim", "answer", "restore", "claim", "put", "claim"])
@example(["tombstone", "put", "save", "tombstone", "restore", "claim"])
async def test_whatever_redis_forgets_no_request_is_run_twice_nor_after_its_sender_was_told(
    pair: Pair, steps: list[str]
) -> None:
    with contextlib.closing(pair.place.client) as client:
        client.flushall()
        model = Model(pair, client)
        await model.claim()
        for step in steps:
            await getattr(model, step)()
        for _ in range(3):
            await model.claim(100)
    assert len(set(model.ran)) == len(model.ran)
    assert not set(model.ran) & model.told
