"""A store of somebody else's, by the setting `log`: real servers and clients on it, end to end, and
what is said at the start when it is none."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import (
    ConfigurationError,
    Persistence,
    PersistMiddleware,
    Settings,
    StoreError,
)
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.store import EventLog, RecordLog, Records
from mcp_persist_middleware.testing import FaultProxy, MemoryLog, RandomCuts, Shelf, memory
from mcp_persist_middleware.testing.memory import MemoryRecords
from tests.interaction.test_official_client import CLIENTS, WORK
from tests.matrix.clients import run
from tests.matrix.score import score
from tests.multiworker.test_relay import value
from tests.support.processes import ServerError, ServerProcess
from tests.support.scripted import Call, Scripted, serving, until
from tests.support.servers import _sdk2
from tests.support.session import RawSession
from tests.support.stateful import Stateful

QUICK = {"retry_ms": 300, "modern_retry_ms": 300}


class Maker:
    """Makes logs on one shelf, and keeps them."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.made: list[MemoryLog] = []
        self.settings: list[Settings] = []

    def __call__(self, settings: Settings) -> MemoryLog:
        self.settings.append(settings)
        self.made.append(MemoryLog(self.shelf))
        return self.made[-1]


@pytest.mark.parametrize("client", CLIENTS)
async def test_every_call_that_is_cut_arrives_exactly_once(client: str) -> None:
    make, policy = Maker(), RandomCuts(21, WORK.events, 1)
    app = PersistMiddleware(_sdk2(False, False), log=make, **QUICK)
    async with serving(app) as port, FaultProxy(port, policy, on_end=policy.ended) as proxy:
        outcomes = await run(client, f"http://127.0.0.1:{proxy.port}/mcp", WORK)
    total = score(outcomes, WORK, proxy.cuts)
    assert total.exactly_once(WORK), total
    kept = sum(len(rows) for rows in make.shelf.events.values())
    assert kept >= WORK.calls * (WORK.events + 1), "they are in that store and no other"
    assert make.shelf.kept("worker") == [], "who has left is not there any more"


async def test_a_session_and_its_streams_live_on_in_it_when_the_server_is_another() -> None:
    make, session, seen = Maker(), RawSession(0), []
    for _ in range(2):
        server = PersistMiddleware(_sdk2(False, False), log=make, **QUICK)
        async with serving(server) as port:
            session = replace(session, port=port) if seen else await RawSession.open(port)
            for frames in list(seen):
                replay = await session.get(frames[0].id)
                again = await replay.take(len(frames) - 1)
                assert [frame.data for frame in again] == [frame.data for frame in frames[1:]]
            response = await session.call("count", n=3, delay=0)
            seen.append([f async for f in response.frames() if f.id])
            assert "counted 3" in str(seen[-1][-1].message["result"])
    (kept,) = make.shelf.kept("session")
    assert b'"generation": 2,' in make.shelf.records[f"session/{kept}"], "it was brought back"


async def test_a_session_is_one_on_two_workers_also_when_its_home_is_gone() -> None:
    make, (here, there) = Maker(), (Stateful(), Stateful())
    apps = [
        PersistMiddleware(app, log=make, retry_ms=1000 + n, drain_seconds=0.1)
        for n, app in enumerate((here, there))
    ]
    async with serving(apps[1]) as second:
        async with serving(apps[0]) as first:
            session = await RawSession.open(first)
            assert await value(await session.call("count")) == 1
            session.port = second
            assert await value(await session.call("count")) == 2, "it ran at its home"
            assert (len(here.sessions), len(there.sessions)) == (1, 0)
        assert await value(await session.call("count")) == 1, "it was brought back"
        assert len(there.sessions) == 1


async def test_a_store_that_opens_no_stream_again_costs_a_session_nothing_but_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def closing(call: Call) -> None:
        await call.head()
        await call.progress(len(app.calls))
        await call.end()

    monkeypatch.setattr(memory, "_reopened", lambda record: record)
    app, cursor, seen = Scripted(GET=closing), None, []
    async with serving(PersistMiddleware(app, log=Maker(), **QUICK)) as port:
        session = await RawSession.open(port)
        for _ in range(3):
            response = await session.get(cursor)
            seen += [frame async for frame in response.frames() if frame.data]
            cursor = seen[-1].id
    assert [frame.progress for frame in seen] == [1, 2, 3]


async def test_each_event_loop_has_a_log_of_its_own_and_they_share_what_is_in_it() -> None:
    async def two(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.result()

    make = Maker()
    persistence = Persistence(log=make, lease_seconds=7)
    app, ports, over = Scripted(two=two), [], threading.Event()

    async def serve() -> None:
        async with serving(PersistMiddleware(app, persistence=persistence)) as port:
            ports.append(port)
            await until(over.is_set, 30)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        async with serving(PersistMiddleware(app, persistence=persistence)) as port:
            await until(lambda: ports)
            session = await RawSession.open(port)
            frames = [f async for f in (await session.call("two")).frames() if f.id]
            elsewhere = replace(session, port=ports[0])
            replay = await elsewhere.get(frames[0].id)
            assert [f.id for f in [f async for f in replay.frames()] if f.data][-1] == frames[-1].id
    finally:
        over.set()
        await asyncio.to_thread(thread.join, 20)
        await asyncio.get_running_loop().shutdown_default_executor()
    assert len(make.made) == 2
    assert {settings.lease_seconds for settings in make.settings} == {7}


class Fragile(MemoryLog):
    """Its `open` or `aclose` fails in a way of its own while it is told to."""

    def __init__(self, shelf: Shelf, failing: set[str]) -> None:
        super().__init__(shelf)
        self._failing = failing

    async def open(self, worker: str) -> None:
        await super().open(worker)
        if "open" in self._failing:
            self._failing.remove("open")
            raise RuntimeError("hunter2")

    async def aclose(self) -> None:
        await super().aclose()
        if "aclose" in self._failing:
            self._failing.remove("aclose")
            raise OSError("hunter2")


@pytest.mark.parametrize("failing", ["make", "open", "aclose"])
async def test_whatever_fails_once_after_a_lost_lease_the_worker_goes_on_as_another(
    failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    shelf, fails = Shelf(), set[str]()

    def make(_: Settings) -> EventLog:
        if "make" in fails:
            fails.remove("make")
            raise KeyError("hunter2")
        return Fragile(shelf, fails)

    async with Persistence(log=make) as persistence:
        lost = await access_to(persistence).context()
        fails.add(failing)
        lost.member.lease.lose()
        async with asyncio.timeout(10):
            while (await access_to(persistence).context()) is lost:
                await asyncio.sleep(0.01)
        fresh = await access_to(persistence).context()
        assert fresh.holds_lease
        assert not fails, "it has failed"
        assert shelf.kept("worker") == [fresh.member.name], "nothing is left of those before"
    assert "There is no new lease yet" in caplog.text or "not left in order" in caplog.text
    assert "hunter2" not in caplog.text


async def test_sessions_that_cannot_be_kept_do_not_keep_the_old_worker_enrolled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make = Maker()
    async with Persistence(log=make) as persistence:
        parts = await access_to(persistence).parts()

        async def fail(_: Any) -> None:
            monkeypatch.undo()
            raise KeyError("hunter2")

        monkeypatch.setattr(type(parts.sessions), "keep", fail)
        parts.exchanges.member.lease.lose()
        async with asyncio.timeout(10):
            while (fresh := await access_to(persistence).parts()) is parts:
                await asyncio.sleep(0.01)
        assert make.shelf.kept("worker") == [fresh.exchanges.member.name]
    assert "not left in order: KeyError" in caplog.text
    assert "hunter2" not in caplog.text


def test_so_much_of_a_store_is_its_authors_to_write() -> None:
    streams = {"append", "find", "read", "open_streams", "expire_session", "purge"}
    assert RecordLog.__abstractmethods__ == streams | {"make_records"}
    assert Records.__abstractmethods__ == {"get", "swap", "list"}
    mine = {name for each in (MemoryLog, MemoryRecords) for name in vars(each) if name[0] != "_"}
    needed = RecordLog.__abstractmethods__ | Records.__abstractmethods__
    more = {"streams", "remove", "journal"}
    assert mine - needed == more, "and no more is, but for erasing, bounds and the journal"


class Unfinished(MemoryLog):
    """It leaves a method out."""

    find = EventLog.find  # type: ignore[assignment]


class Broken(MemoryLog):
    """It breaks its word: what fails is a `StoreError`."""

    async def open(self, worker: str) -> None:
        raise RuntimeError("hunter2")


async def _later(_: Settings) -> MemoryLog:
    return MemoryLog(Shelf())


def _failing(_: Settings) -> MemoryLog:
    raise KeyError("hunter2")


def _called_wrongly_within(_: Settings) -> MemoryLog:
    raise TypeError("connect() takes no 'mydb://u:hunter2@h'")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"log": Maker(), "url": "events.db"}, "url and log are given together"),
        ({"log": MemoryLog(Shelf())}, "expected a callable of the Settings"),
        ({"log": "my:log"}, "expected a callable of the Settings"),
        ({"log": lambda _: None}, "log= returned 'NoneType'"),
        ({"log": _later}, "log= returned 'coroutine'"),
        ({"log": lambda: MemoryLog(Shelf())}, "one argument, the Settings.*too many positional"),
        ({"log": lambda _, other: other}, "one argument, the Settings.*'other'"),
        ({"log": lambda _: Unfinished(Shelf())}, "raised TypeError"),
        ({"log": _failing}, "raised KeyError"),
        ({"log": _called_wrongly_within}, "raised TypeError"),
        ({"log": dict}, "raised TypeError"),
    ],
)
async def test_what_is_no_store_is_refused_at_the_start(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        await Persistence(**given).start()
    assert "hunter2" not in str(caught.value)


def breaking() -> Any:
    """An application on a log that fails in a way that it may not."""
    return PersistMiddleware(Scripted(), log=lambda _: Broken(Shelf()))


async def test_a_log_that_fails_in_a_way_of_its_own_stops_the_server(tmp_path: Path) -> None:
    name = f"tests.interaction.{Path(__file__).stem}:breaking()"
    server = ServerProcess(name, tmp_path / "server.log")
    with pytest.raises(ServerError):
        await server.start()
    assert "The store cannot be opened: RuntimeError" in server.log
    assert Path(__file__).name in server.log, "with the place it comes from"
    assert "hunter2" not in server.log


async def test_a_log_that_cannot_be_opened_says_why() -> None:
    class Away(MemoryLog):
        async def open(self, worker: str) -> None:
            raise StoreError(url=self.name, reason="it is Sunday")

    make: Callable[[Settings], EventLog] = lambda _: Away(Shelf())  # noqa: E731
    with pytest.raises(StoreError, match="it is Sunday"):
        await Persistence(log=make).start()
