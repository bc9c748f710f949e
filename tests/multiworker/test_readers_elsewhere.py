"""The worker that runs a call knows of its readers on other workers: two of them here on one event
loop, with the clocks turned up."""

import asyncio
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.membership import readers
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from mcp_persist_middleware.wakeups import base, postgres
from mcp_persist_middleware.wakeups import sqlite as wakeups
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import HANDSHAKE, MODERN, RawSession
from tests.support.sse_client import Response
from tests.support.stores import Store

pytestmark = pytest.mark.timeout(60)

# Long enough for a slow machine to move a client from one worker to the other, and to renew a note.
GRACE, LEASE, RENEW = 1.5, 2.0, 0.3
ERAS = pytest.mark.parametrize(
    ("store", "version"),
    [("sqlite", HANDSHAKE), ("sqlite", MODERN), ("postgres", MODERN)],
    indirect=["store"],
)


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_LEASE", LEASE)
    monkeypatch.setattr(readers, "_RENEW", RENEW)


class RelayServer(Scripted):
    """Its tool `hold` sends one event and runs until it hears that its client has left."""

    def __init__(self) -> None:
        super().__init__(hold=self._hold)
        self.left = 0

    async def _hold(self, call: Call) -> None:
        await call.head()
        await call.progress(1)
        watching = asyncio.create_task(call.watch())
        try:
            await call.gone.wait()
        finally:
            watching.cancel()
        self.left += 1


@dataclass
class Two:
    """Two workers on one store; calls run on `one`."""

    app: RelayServer
    one: int
    two: int

    async def start(self, version: str) -> tuple[RawSession, Response, str]:
        """A call on `one`, read up to its first event; the cursor behind that."""
        session = await RawSession.open(self.one, version)
        response = await session.call("hold")
        (first,) = await response.take(1)
        assert first.id is not None
        return session, response, first.id

    async def move(self, version: str) -> Response:
        """A call whose client was cut and reads on `two`."""
        session, response, cursor = await self.start(version)
        response.reset()
        session.port = self.two
        moved = await session.get(cursor)
        assert moved.status == 200
        return moved

    async def given_up(self, within: float) -> bool:
        """Whether any of its calls hears meanwhile that its client has left."""
        waits = [asyncio.create_task(call.gone.wait()) for call in self.app.calls]
        heard, waiting = await asyncio.wait(waits, timeout=within, return_when="FIRST_COMPLETED")
        for each in waiting:
            each.cancel()
        return bool(heard)


@asynccontextmanager
async def two_workers(store: Store | str, **settings: object) -> AsyncIterator[Two]:
    """Both on this event loop: settings that differ in one value make a worker of its own."""
    app = RelayServer()
    given = {"disconnect_grace": GRACE, "detach_seconds": GRACE, "resume_rotate": None} | settings
    given |= store.settings if isinstance(store, Store) else {"url": store}
    async with (
        persisted(app, **given) as (one, _),
        persisted(RelayServer(), **given | {"retry_ms": 2999}) as (two, _),
    ):
        yield Two(app, one, two)


async def test_a_call_is_not_given_up_while_its_client_reads_elsewhere_and_is_after_it_left(
    tmp_store: str,
) -> None:
    async with two_workers(tmp_store) as workers:
        responses = [await workers.move(version) for version in (HANDSHAKE, MODERN)]
        assert not await workers.given_up(LEASE + GRACE + 1)
        for response in responses:
            response.reset()
        left = time.monotonic()
        async with asyncio.timeout(10):
            for call in workers.app.calls:
                await call.gone.wait()
                assert time.monotonic() - left >= GRACE


async def test_a_client_that_comes_back_from_elsewhere_is_not_given_up(tmp_store: str) -> None:
    async with two_workers(tmp_store) as workers:
        clients = [await workers.start(version) for version in (HANDSHAKE, MODERN)]
        readers = [response for _, response, _ in clients]
        for port in (workers.two, workers.one, workers.two):
            for number, (session, _, cursor) in enumerate(clients):
                readers[number].reset()
                session.port = port
                readers[number] = await session.get(cursor)
            assert not await workers.given_up(1.5 * GRACE)
        for reader in readers:
            reader.reset()


async def test_a_client_that_nobody_sees_again_is_gone_after_the_grace(tmp_store: str) -> None:
    async with two_workers(tmp_store) as workers:
        _, response, _ = await workers.start(MODERN)
        response.reset()
        async with asyncio.timeout(10):
            await workers.app.calls[0].gone.wait()


async def test_the_clock_of_an_absence_starts_when_the_last_reader_elsewhere_left(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    async def left_a_moment_ago(_log: SqliteLog, _stream: bytes) -> float | None:
        asked.append(time.monotonic())
        return -0.1 if len(asked) == 1 else -10.0

    monkeypatch.setattr(SqliteLog, "reader_ttl", left_a_moment_ago)
    async with two_workers(tmp_store, disconnect_grace=0.5) as workers:
        _, response, _ = await workers.start(MODERN)
        response.reset()
        async with asyncio.timeout(10):
            await workers.app.calls[0].gone.wait()
    assert len(asked) == 2
    assert asked[1] - asked[0] >= 0.39


async def test_when_too_many_run_alone_those_that_are_read_elsewhere_stay(tmp_store: str) -> None:
    async with two_workers(tmp_store, detach_seconds=3600, max_detached=1) as workers:
        moved = await workers.move(HANDSHAKE)
        alone = [await workers.start(HANDSHAKE) for _ in range(3)]
        for _, response, _ in alone:
            response.reset()
        await until(lambda: workers.app.left == 2)
        assert not workers.app.calls[0].gone.is_set()
        moved.reset()


async def test_a_store_that_cannot_say_is_asked_again(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    reader_ttl = SqliteLog.reader_ttl

    async def failing(self: SqliteLog, stream: bytes) -> float | None:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise StoreError(url=self.name, reason="a test")
        return await reader_ttl(self, stream)

    monkeypatch.setattr(SqliteLog, "reader_ttl", failing)
    async with two_workers(tmp_store) as workers:
        response = await workers.move(MODERN)
        await until(lambda: asked >= 3)
        assert not workers.app.calls[0].gone.is_set()
        response.reset()


async def test_notes_of_many_readers_are_few_writes(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    renew_readers = SqliteLog.renew_readers

    async def counting(self: SqliteLog, streams: Collection[bytes], seconds: float) -> None:
        writes.append(len(streams))
        await renew_readers(self, streams, seconds)

    monkeypatch.setattr(SqliteLog, "renew_readers", counting)
    async with two_workers(tmp_store, detach_seconds=3600) as workers:
        began = time.monotonic()
        moved = [await workers.move(HANDSHAKE) for _ in range(30)]
        await until(lambda: writes and writes[-1] == 30)
        took = time.monotonic() - began
        assert len(writes) <= took / readers._PAUSE + 1
        for response in moved:
            response.reset()


async def test_a_note_that_fails_is_made_again_and_said(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0
    renew_readers = SqliteLog.renew_readers

    async def failing(self: SqliteLog, streams: Collection[bytes], seconds: float) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise StoreError(url=self.name, reason="a test")
        await renew_readers(self, streams, seconds)

    monkeypatch.setattr(SqliteLog, "renew_readers", failing)
    async with two_workers(tmp_store, disconnect_grace=5) as workers:
        response = await workers.move(MODERN)
        await until(lambda: tries >= 4)
        assert not workers.app.calls[0].gone.is_set()
        response.reset()
    assert sum("cannot be noted" in text for text in caplog.messages) == 2


def _pollers() -> list[set[bytes]]:
    """The streams that each poller asks for; each asks for its worker's relayed requests as
    well."""
    found = [t for t in threading.enumerate() if isinstance(t, wakeups._Poller)]
    all_relayed = re.compile(rb"[0-9a-f]{16}")
    asked = [{topic for topic in t.streams if not all_relayed.fullmatch(topic)} for t in found]
    return [streams for streams in asked if streams]


def _tasks() -> Counter[str]:
    return Counter(task.get_name() for task in asyncio.all_tasks())


async def test_nothing_is_asked_or_noted_while_nobody_reads_elsewhere(tmp_store: str) -> None:
    async with two_workers(tmp_store, detach_seconds=3600) as workers:
        session, response, cursor = await workers.start(HANDSHAKE)
        again = await session.get(cursor)
        assert again.status == 200
        assert not _pollers()
        assert not _tasks()["mcp-persist-attendance"]
        session.port = workers.two
        moved = [await session.get(cursor) for _ in range(5)]
        await until(_pollers)
        assert len(_pollers()) == 1
        assert _tasks()["mcp-persist-attendance"] == 1
        for one in [*moved, again, response]:
            one.reset()
        await until(lambda: not _pollers())
        await until(lambda: not _tasks()["mcp-persist-attendance"])


EVENTS = 200


async def count(call: Call) -> None:
    await call.head()
    for value in range(1, EVENTS + 1):
        await call.progress(value)
        await asyncio.sleep(0.002)
    await call.result()


@ERAS
async def test_with_every_wake_up_lost_each_event_still_comes_once(
    store: Store, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base.Subscriptions, "notify", lambda *_: None)
    for module in (wakeups, postgres):
        monkeypatch.setattr(module, "_PATIENCE", 0.1)
    async with two_workers(store) as workers:
        workers.app.tools["count"] = count
        session = await RawSession.open(workers.one, version)
        response = await session.call("count")
        first = await response.take(1)
        response.reset()
        session.port = workers.two
        moved = await session.get(first[0].id)
        rest = await moved.take(EVENTS)
    assert [frame.progress for frame in rest] == [*range(2, EVENTS + 1), None]
