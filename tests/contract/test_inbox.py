"""The relayed requests between workers: what our stores promise of them beside the contract."""

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi.client import stay
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.membership.lease import Lease
from mcp_persist_middleware.log.record_log import RecordLog
from mcp_persist_middleware.model import (
    EnqueueResult,
    RelayRequestId,
    RelayState,
    RelayStatus,
    SessionKey,
    SessionRecord,
)
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.relay import watch
from mcp_persist_middleware.relay.client import RelayClient
from mcp_persist_middleware.relay.envelope import BufferedResponse, NotExecuted, RequestEnvelope
from mcp_persist_middleware.relay.execute import Executor
from mcp_persist_middleware.relay.outcome import RelayFailure
from mcp_persist_middleware.relay.server import RelayServer
from mcp_persist_middleware.sessions.registry import LocalSession, Registry
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.supervision import end, scoped
from mcp_persist_middleware.testing.contract.builders import KEY, NOW, begin_session, claim, relayed
from tests.support.scripted import until
from tests.support.stores import Store


def may_forget(log: EventLog) -> bool:
    """Whether relayed requests lie where a session's move does not take them along."""
    return isinstance(log, RedisLog | RecordLog)


async def contents(store: Store) -> list[bytes]:
    """All that the store has of relayed requests."""
    found = [row[0] for row in await store.rows("SELECT content FROM mcp_inbox")]
    if "redis" in store.settings:
        with contextlib.closing(redis.Redis.from_url(store.settings["redis"])) as client:
            for key in client.scan_iter("*:l:*"):
                found += [*client.hgetall(key).values()]
    return found


async def test_what_was_claimed_is_nowhere_any_more(log: EventLog, store: Store) -> None:
    await begin_session(log)
    secret = secrets.token_bytes(16)
    await log.inbox.put(relayed(content=secret), 10)
    assert secret in await contents(store)
    await claim(log, "one")
    assert secret not in await contents(store)


async def test_what_was_withdrawn_is_nowhere_any_more(log: EventLog, store: Store) -> None:
    await begin_session(log)
    sent = relayed(content=secrets.token_bytes(16))
    await log.inbox.put(sent, 10)
    assert await log.inbox.withdraw(sent.name)
    assert sent.content not in await contents(store)


async def test_a_request_to_where_the_session_is_not_is_not_enqueued(log: EventLog) -> None:
    if may_forget(log):
        pytest.skip("its addressee sees that")
    assert await log.inbox.put(relayed(), 10) is EnqueueResult.MOVED
    await begin_session(log)
    assert await log.inbox.put(relayed(worker="two"), 10) is EnqueueResult.MOVED
    assert await log.sessions.move(KEY, 1, "two")
    assert await log.inbox.put(relayed(), 10) is EnqueueResult.MOVED
    assert await log.inbox.put(relayed(worker="two", generation=2), 10) is EnqueueResult.ENQUEUED
    await log.sessions.delete(KEY, time.time() + 60)
    assert await log.inbox.put(relayed(worker="two", generation=2), 10) is EnqueueResult.MOVED


async def test_a_request_is_claimed_where_it_is_addressed_to_with_its_generation(
    log: EventLog, other: EventLog
) -> None:
    """Where a move does not take it along: whoever claims it can tell that it is too late."""
    if not may_forget(log):
        pytest.skip("it is refused, or addressed anew")
    await begin_session(log)
    before, after = relayed(), relayed()
    await other.inbox.put(before, 10)
    assert await log.sessions.move(KEY, 1, "two")
    assert await other.inbox.put(after, 10) is EnqueueResult.ENQUEUED
    assert await claim(other, "two") == []
    assert {(each.id, each.generation) for each in await claim(log, "one")} == {
        (before.id, 1),
        (after.id, 1),
    }


async def test_a_session_that_moves_takes_along_what_waits_for_it(
    log: EventLog, other: EventLog
) -> None:
    if may_forget(log):
        pytest.skip("it stays, and its addressee says so")
    await begin_session(log)
    claimed, waiting = relayed(), relayed()
    await log.inbox.put(claimed, 10)
    await claim(log, "one")
    await log.inbox.put(waiting, 10)
    # Who comes too late moves nothing.
    assert not await other.sessions.move(KEY, 7, "three")
    assert await other.sessions.move(KEY, 1, "two")
    assert await claim(log, "one") == []
    (got,) = await claim(other, "two")
    assert (got.id, got.worker, got.generation) == (waiting.id, "two", 2)
    assert await log.inbox.look(claimed.name) == RelayStatus(RelayState.CLAIMED, "one", b"")


async def test_a_late_request_is_not_claimed_and_is_purged(log: EventLog) -> None:
    await begin_session(log)
    sent = relayed()
    await log.inbox.put(sent, 10)
    assert await claim(log, "one", NOW + 11) == []
    assert await log.inbox.purge(NOW + 9, 10) == 0
    if may_forget(log):
        return  # see `test_redis_inbox.py`: it goes by itself
    assert await log.inbox.purge(NOW + 11, 10) == 1
    assert await log.inbox.look(sent.name) is None


STEPS = st.lists(
    st.sampled_from(["put", "claim one", "claim two", "withdraw", "move", "answer", "purge"]),
    max_size=30,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(STEPS)
async def test_no_request_is_run_twice_nor_after_it_was_withdrawn(
    log: EventLog, steps: list[str]
) -> None:
    key = SessionKey("default", "/mcp", new_stream_id().hex())
    await begin_session(log, key)
    home, generation = "one", 1
    sent: list[bytes] = []
    addressed: dict[bytes, str] = {}
    run: list[bytes] = []
    withdrawn: list[bytes] = []
    for step in steps:
        match step:
            case "put":
                new = relayed(key=key, worker=home, generation=generation)
                assert await log.inbox.put(new, 1000) is EnqueueResult.ENQUEUED
                sent.append(new.id)
                addressed[new.id] = home
            case "claim one" | "claim two":
                claimed = await claim(log, step[6:])
                served = [
                    each
                    for each in claimed
                    if (step[6:], each.generation) == (home, generation) and not each.not_executable
                ]
                assert served == claimed or may_forget(log)
                run += [each.id for each in served]
            case "withdraw":
                withdrawn += [
                    each
                    for each in sent
                    if await log.inbox.withdraw(RelayRequestId(each, addressed[each]))
                ]
            case "move":
                home = "two" if home == "one" else "one"
                assert await log.sessions.move(key, generation, home)
                generation += 1
            case "answer":
                for each in sent:
                    answered = [await log.inbox.answer(each, w, b"ok", NOW) for w in ("one", "two")]
                    assert sum(answered) <= 1
            case _:
                await log.inbox.purge(NOW, 1000)
    assert len(set(run)) == len(run)
    assert not set(run) & set(withdrawn)
    for worker in ("one", "two"):
        await claim(log, worker)
    await log.inbox.purge(NOW + 1000, 1000)


class Home:
    """A session's worker whose application answers when it is let, and notes who has left."""

    def __init__(self, log: EventLog) -> None:
        given = Settings.load({"url": "events.db", "lease_seconds": 1, "store_timeout": 0.5})
        alone: Any = SimpleNamespace(has_peers=lambda _: True, is_suspect=lambda _: False)
        lease = Lease(60)
        self._registry = Registry(log.sessions, given, "one", alone)
        self._server = RelayServer(
            log.inbox, log.wakeups, alone, lease, self._registry, given, "one"
        )
        self.let: dict[str, asyncio.Event] = {}
        self.left: list[str] = []
        self.running: list[str] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve."""
        runs = [asyncio.create_task(run()) for run in (self._server.run, self._server.renew)]
        try:
            yield
        finally:
            await end(*runs)
            await self._server._tasks.aclose()

    async def hold(self, key: SessionKey, owner: str) -> SessionRecord:
        """A session of somebody's."""
        record = SessionRecord(key, owner, "2025-11-25", b"{}", 1, "one", time.time() + 60)
        assert await self._registry._sessions.create(record)
        held = LocalSession(record, key.id, owner=owner)
        held.site = partial(self._site, key.id)
        self.let[key.id] = asyncio.Event()
        self._registry._held.add(held)
        return record

    async def _site(self, session: str, _: RequestEnvelope, receive: Any) -> BufferedResponse:
        self.running.append(session)
        wait = [asyncio.ensure_future(each) for each in (self.let[session].wait(), receive())]
        await asyncio.wait(wait, return_when=asyncio.FIRST_COMPLETED)
        if not wait[0].done():
            self.left.append(session)
            await wait[0]
        await end(*wait)
        return BufferedResponse(200, [], b"done")


def client_of(log: EventLog, record: SessionRecord) -> tuple[asyncio.Task[Any], asyncio.Event]:
    """A call through another worker; set when its client leaves."""
    left, alive = asyncio.Event(), cast("Any", SimpleNamespace(is_suspect=lambda _: False))
    relay = RelayClient(log.inbox, log.wakeups, alive, 1.0, 1024)
    scope = {"method": "POST", "path": "/mcp", "headers": []}
    envelope = RequestEnvelope(scope, b"{}", "default")

    async def call() -> object:
        with scoped(left.wait(), "left") as gone:
            return await relay.carry(record, envelope, gone)

    return asyncio.create_task(call()), left


@pytest.mark.parametrize("of", ["session", "owner"])
async def test_no_client_keeps_the_others_out_and_what_nobody_waits_for_makes_room(
    log: EventLog, other: EventLog, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    monkeypatch.setattr("mcp_persist_middleware.relay.server._OF_ONE_SESSION", 3)
    monkeypatch.setattr("mcp_persist_middleware.relay.server._OF_ONE_PRINCIPAL", 3)
    # Nobody here has closed only its half.
    monkeypatch.setattr(asgi, "HALF_CLOSED", 0.1)
    monkeypatch.setattr(watch, "_LOOK_SECONDS", 0.1)
    home = Home(log)
    async with home.open():
        greedy = [await home.hold(SessionKey("d", "/mcp", f"g{n}"), "eve") for n in range(3)]
        honest = await home.hold(SessionKey("d", "/mcp", "honest"), "ann")
        mine = greedy[:1] * 3 if of == "session" else greedy
        calls = [client_of(other, record) for record in mine]
        await until(lambda: len(home.running) == 3)
        one_more, _ = client_of(other, mine[0])
        assert await asyncio.wait_for(one_more, 10) is RelayFailure.QUEUE_FULL
        home.let["honest"].set()
        fine, _ = client_of(other, honest)
        assert await asyncio.wait_for(fine, 10) == BufferedResponse(200, [], b"done")
        # A disconnect is no cancellation: the calls go on, and are nobody's.
        for _, left in calls:
            left.set()
        for task, _ in calls:
            assert await asyncio.wait_for(task, 10) is RelayFailure.CLIENT_GONE
        await until(lambda: len(home.left) == 3)
        again, _ = client_of(other, mine[0])
        await until(lambda: len(home.running) == 5)
        for each in home.let.values():
            each.set()
        assert await asyncio.wait_for(again, 10) == BufferedResponse(200, [], b"done")


async def test_a_request_whose_client_left_before_it_was_taken_is_run_all_the_same(
    log: EventLog, other: EventLog
) -> None:
    home = Home(log)
    record = await home.hold(SessionKey("d", "/mcp", "half"), "ann")
    call, left = client_of(other, record)
    left.set()
    await asyncio.sleep(0)
    async with home.open():
        assert await asyncio.wait_for(call, 10) is RelayFailure.CLIENT_GONE
        await until(lambda: home.running == ["half"])
        # One that has closed only its half may read what is there in a moment.
        home.let["half"].set()
        call, left = client_of(other, record)
        left.set()
        assert await asyncio.wait_for(call, 10) == BufferedResponse(200, [], b"done")


async def test_what_was_run_and_cannot_be_answered_is_never_said_not_to_have_run(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender may hear that when the store is back, and would have it run a second time."""
    monkeypatch.setattr("mcp_persist_middleware.relay.server._AFTER_FAILURE", 0.05)
    home = Home(log)
    record = await home.hold(SessionKey("d", "/mcp", "run"), "ann")
    home.let["run"].set()
    content = RequestEnvelope(
        {"method": "POST", "path": "/mcp", "headers": []}, b"{}", "default"
    ).pack()
    lost, later = (relayed(key=record.key, content=content, deadline=NOW + 600) for _ in range(2))

    async def fails(*_: Any) -> Any:
        raise StoreError(url="events.db", reason="it stumbles")

    async with home.open():
        with monkeypatch.context() as away:
            away.setattr(home._server, "_patience", 0.2)
            away.setattr(log.inbox, "answer", fails)
            assert await log.inbox.put(lost, 10) is EnqueueResult.ENQUEUED
            await until(lambda: home.running == ["run"] and not home._server._running)
            away.setattr(home._server, "_patience", 60.0)
            away.setattr(log.inbox, "claim", fails)
            assert await log.inbox.put(later, 10) is EnqueueResult.ENQUEUED
            # A claim of which nothing was heard: what nobody runs is given back.
            await until(lambda: home._server._is_in_doubt)
        await until(lambda: home.running == ["run", "run"])
    status = await log.inbox.look(lost.name)
    assert status is not None
    assert (status.state, status.reply) == (RelayState.CLAIMED, b"")


async def test_only_the_home_of_a_session_gives_it_up_to_whoever_asks(log: EventLog) -> None:
    """A relayed request may reach a worker that the session has left: that one has nothing to give
    up."""
    given, nobody = Settings.load({"url": "events.db"}), cast("Any", None)
    registry = Registry(log.sessions, given, "one", nobody)
    executor = Executor(registry, None, "one", 60)
    await begin_session(log)
    late = relayed()
    assert await executor.run(late, [], stay) == NotExecuted(home_vacant=True)
    assert (
        await executor.run(dataclasses.replace(late, not_executable=True), [], stay)
        == NotExecuted()
    )
    assert await log.sessions.move(KEY, 1, "two")
    assert await executor.run(late, [], stay) == NotExecuted()


@pytest.mark.parametrize("was_here", [False, True])
async def test_a_request_that_follows_its_session_here_waits_until_it_has_arrived(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, *, was_here: bool
) -> None:
    """The store knows of the new home first. Nobody else may take the session over meanwhile. The
    same holds at home when the application has forgotten the session, and it is made anew."""
    given, nobody = Settings.load({"url": "events.db"}), cast("Any", None)
    registry = Registry(log.sessions, given, "two", nobody)
    executor, followed, early = Executor(registry, None, "two", 60), [], []
    await begin_session(log)
    record = await log.sessions.find(KEY)
    assert record is not None
    if was_here:
        registry._held.add(LocalSession(record, "forgotten"))
    follows = dataclasses.replace(relayed(), worker="two", generation=2)
    move = log.sessions.move

    async def seen_at_once(*to: Any) -> bool:
        moved = await move(*to)
        followed.append(asyncio.create_task(executor.run(follows, [], stay)))
        early.extend((await asyncio.wait(followed, timeout=0.2))[0])
        return moved

    monkeypatch.setattr(log.sessions, "move", seen_at_once)
    async with registry.revivals.lock(KEY):
        held = await registry.take(record, "inner")
    assert held is not None
    assert registry.held(KEY) is held
    assert not early
    (outcome,) = followed
    # Nothing serves it in this test: what counts is that it is no invitation.
    assert await outcome == NotExecuted()
