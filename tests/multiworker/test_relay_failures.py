"""The store stumbles while a request is on its way: it is run once, and answered once."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import EnqueueResult, RelayRequest
from mcp_persist_middleware.stores.sqlite.inbox import SqliteInbox, SqliteSessions
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from tests.guarantees.test_g10_sessions import two_workers
from tests.multiworker.test_relay import value
from tests.multiworker.test_relay_settings import two
from tests.support.scripted import Call, Scripted, until
from tests.support.session import RawSession


class Stumbling:
    """Lets a step of the inbox fail so many times, before or after it was done."""

    def __init__(self, step: Any, times: int, *, after: bool) -> None:
        self._step = step
        self._after = after
        self.left = times

    def method(self) -> Any:
        """The step, to be set in its place."""

        async def step(inbox: SqliteInbox, *arguments: Any) -> Any:
            done = await self._step(inbox, *arguments) if self._after or not self.left else None
            if not self.left:
                return done
            self.left -= 1
            raise StoreError(url="events.db", reason="it stumbled")

        return step


async def test_a_request_of_which_the_store_keeps_silent_is_taken_back_or_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        stumbling = Stumbling(SqliteInbox.put, 1, after=True)
        monkeypatch.setattr(SqliteInbox, "put", stumbling.method())
        response = await session.call("count")
        was_run = response.status == 200
        assert was_run or response.status == 503
        assert (await value(await session.call("count")))["calls"] == 1 + was_run


@pytest.mark.parametrize("name", ["look", "answer"])
async def test_a_request_on_its_way_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        assert (await value(await session.call("count")))["calls"] == 1
        stumbling = Stumbling(getattr(SqliteInbox, name), 3, after=False)
        monkeypatch.setattr(SqliteInbox, name, stumbling.method())
        assert (await value(await session.call("count")))["calls"] == 2
        assert stumbling.left == 0


async def test_a_claim_whose_outcome_was_never_heard_is_given_back_and_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        real, deaf = SqliteInbox.claim, [True]

        async def claim(inbox: SqliteInbox, *arguments: Any) -> list[RelayRequest]:
            all_relayed = await real(inbox, *arguments)
            if all_relayed and deaf:
                deaf.pop()
                raise StoreError(url="events.db", reason="it stumbled")
            return all_relayed

        monkeypatch.setattr(SqliteInbox, "claim", claim)
        assert (await value(await session.call("count")))["calls"] == 1
        assert not deaf


async def test_a_claim_that_is_committed_long_after_it_was_given_up_is_given_back_and_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stands still commits when it goes on, whoever waits."""
    real, still, late = SqliteInbox.claim, asyncio.Event(), asyncio.Event()
    claiming = set[object]()

    async def claim(inbox: SqliteInbox, *arguments: Any) -> list[RelayRequest]:
        if still.is_set() and not late.is_set():
            raise StoreError(url="events.db", reason="the disk stands still")
        claiming.add(under_way := object())
        try:
            return await real(inbox, *arguments)
        finally:
            claiming.remove(under_way)

    monkeypatch.setattr(SqliteInbox, "claim", claim)
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        assert (await value(await session.call("count")))["calls"] == 1
        looked = asyncio.Event()
        claimed = SqliteInbox.claimed

        async def seen(inbox: SqliteInbox, worker: str) -> list[bytes]:
            found = await claimed(inbox, worker)
            if not found and not looked.is_set():
                # The one look after the failure finds nothing; then the claim is committed.
                now = inbox.now()
                assert len(await real(inbox, worker, 9, now, now + 60)) == 1
                looked.set()
                late.set()
            return found

        monkeypatch.setattr(SqliteInbox, "claimed", seen)
        # What was under way may take the request still.
        await until(lambda: not claiming)
        still.set()
        response = await asyncio.wait_for(session.call("count"), 10)
        assert (await value(response))["calls"] == 2
        assert looked.is_set()


async def test_the_caller_hears_within_a_lease_that_its_answer_cannot_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_: Any) -> bool:
        raise StoreError(url="events.db", reason="it is too large for it")

    async with two(tmp_path, lease_seconds=2.0, store_timeout=1.0) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        monkeypatch.setattr(SqliteInbox, "answer", refuses)
        began = time.monotonic()
        response = await asyncio.wait_for(session.call("count"), 10)
        assert "not run again" in (await value(response))["message"]
        # And the second that a sender looks in.
        assert time.monotonic() - began < 2.0 + 1.0 + 1.0
        monkeypatch.undo()
        assert (await value(await session.call("count")))["calls"] == 2


async def test_a_plain_answer_may_take_longer_than_a_lease(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed, real, now = [0], SqliteInbox.renew, SqliteInbox.now

    async def renew(inbox: SqliteInbox, *arguments: Any) -> Any:
        there = await real(inbox, *arguments)
        renewed[0] += 1
        # By the store's clock the call takes three leases.
        ahead[0] = min(6.0, ahead[0] + 1.0)
        return there

    async def slow(call: Call) -> None:
        await until(lambda: renewed[0] >= 7)
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": {"value": 7}})

    ahead = [0.0]
    monkeypatch.setattr(SqliteInbox, "renew", renew)
    monkeypatch.setattr(SqliteInbox, "now", lambda inbox: now(inbox) + ahead[0])
    times = {"lease_seconds": 2, "store_timeout": 1, "prime_after": None}
    async with two_workers(tmp_store, Scripted(slow=slow), **times) as (ports, _):
        session = await RawSession.open(ports[0])
        session.port = ports[1]
        response = await asyncio.wait_for(session.call("slow"), 15)
        assert json.loads(await response.body())["result"] == {"value": 7}


async def test_a_request_that_cannot_be_enqueued_for_a_moment_is_enqueued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        stumbling = Stumbling(SqliteInbox.put, 2, after=False)
        monkeypatch.setattr(SqliteInbox, "put", stumbling.method())
        assert (await value(await session.call("count")))["calls"] == 1
        assert stumbling.left == 0


async def test_a_request_that_cannot_be_enqueued_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        stumbling = Stumbling(SqliteInbox.put, 1000, after=False)
        monkeypatch.setattr(SqliteInbox, "put", stumbling.method())
        response = await session.call("count")
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        stumbling.left = 0
        assert (await value(await session.call("count")))["calls"] == 1


async def test_a_request_that_was_not_run_is_not_run_by_a_store_that_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[Any] = []
    real = SqliteInbox.put

    async def put(inbox: SqliteInbox, *arguments: Any) -> EnqueueResult:
        late.append((inbox, arguments))
        raise StoreError(url="events.db", reason="it says nothing, and goes on")

    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        monkeypatch.setattr(SqliteInbox, "put", put)
        assert (await session.call("count")).status == 503
        monkeypatch.setattr(SqliteInbox, "put", real)
        assert late
        for inbox, arguments in late:
            with pytest.raises(StoreError):
                await inbox.put(*arguments)
        assert (await value(await session.call("count")))["calls"] == 1


async def test_a_full_inbox_refuses_and_says_when_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_: SqliteInbox, __: RelayRequest, ___: int) -> EnqueueResult:
        return await real(_, __, 0)

    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        real = SqliteInbox.put
        monkeypatch.setattr(SqliteInbox, "put", full)
        response = await session.call("count")
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        monkeypatch.setattr(SqliteInbox, "put", real)
        assert (await value(await session.call("count")))["calls"] == 1


async def test_a_session_that_cannot_be_looked_up_for_a_moment_is_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        stumbling = Stumbling(SqliteSessions.find, 2, after=False)
        monkeypatch.setattr(SqliteSessions, "find", stumbling.method())
        assert (await value(await session.call("count")))["calls"] == 1
        assert stumbling.left == 0


async def test_a_session_is_looked_up_again_when_it_is_not_where_it_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        find, put, looks, moved = SqliteSessions.find, SqliteInbox.put, [0], [False]

        async def counted(sessions: SqliteSessions, key: Any) -> Any:
            looks[0] += 1
            return await find(sessions, key)

        async def refusing(inbox: SqliteInbox, *arguments: Any) -> EnqueueResult:
            refuses, moved[0] = moved[0], False
            return EnqueueResult.MOVED if refuses else await put(inbox, *arguments)

        monkeypatch.setattr(SqliteSessions, "find", counted)
        monkeypatch.setattr(SqliteInbox, "put", refusing)
        monkeypatch.setattr("mcp_persist_middleware.sessions.seen._SECONDS", 60.0)
        for calls in range(1, 4):
            assert (await value(await session.call("count")))["calls"] == calls
        assert looks == [1], "one look serves many requests"
        moved[0] = True
        assert (await value(await session.call("count")))["calls"] == 4
        assert looks == [2]


async def test_an_answer_that_is_there_before_its_request_is_known_to_be_enqueued_is_heard_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = SqliteInbox.put

    async def slow(inbox: SqliteInbox, *arguments: Any) -> EnqueueResult:
        enqueued = await put(inbox, *arguments)
        answered = select(inbox._table).where(inbox._table.c.state == 2)
        async with asyncio.timeout(5):
            while len(await inbox._store.all(answered)) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # and its wake-up has come
        return enqueued

    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        assert (await value(await session.call("count")))["calls"] == 1
        monkeypatch.setattr("mcp_persist_middleware.relay.watch._LOOK_SECONDS", 60.0)
        monkeypatch.setattr(SqliteInbox, "remove", _nothing)
        monkeypatch.setattr(SqliteInbox, "put", slow)
        began = time.monotonic()
        assert (await value(await session.call("count")))["calls"] == 2
        assert time.monotonic() - began < 2


async def _nothing(*_: Any) -> None:
    """Leave the answers where they are."""


async def test_a_short_answer_comes_with_its_reply_and_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, reads = SqliteLog.read, [0]

    async def counted(log: SqliteLog, *arguments: Any) -> Any:
        reads[0] += 1
        return await read(log, *arguments)

    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one)
        session.port = other
        monkeypatch.setattr(SqliteLog, "read", counted)
        monkeypatch.setattr("mcp_persist_middleware.clients._SOON", 5.0)
        assert (await value(await session.call("count")))["calls"] == 1
        assert reads == [0]
        # A larger one is read where it lies.
        monkeypatch.setattr("mcp_persist_middleware.clients._SMALL", 1)
        assert (await value(await session.call("count")))["calls"] == 2
        assert reads[0] > 0
