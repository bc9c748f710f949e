"""What runs beside requests has one owner: a child that dies is said, counted and lives again, and
no step of closing keeps another from running."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import Persistence
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.membership.heartbeat import Heartbeat
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.maintenance.reaper import OrphanReaper
from mcp_persist_middleware.maintenance.retention import RetentionLoop
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.relay.server import RelayServer
from mcp_persist_middleware.sessions.registry import Registry
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.shutdown import ShutdownWatch
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.subscribers import SessionSubscribers
from mcp_persist_middleware.supervision import Supervisor, end
from mcp_persist_middleware.testing import MemoryLog, Shelf
from tests.support.scripted import Call, Scripted, serving, until
from tests.support.session import RawSession
from tests.support.stores import BESIDE, STORES, Store

CHILDREN = {"retention", "reaper", "relay-server", "writer", "shutdown", "notifications"}


async def two(call: Call) -> None:
    """One event, then the answer."""
    await call.head()
    await call.progress(1)
    await call.result()


@pytest.fixture(params=[*STORES, "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store."""
    return (STORES | BESIDE)[request.param](tmp_path, request.getfixturevalue)


async def works(port: int) -> None:
    """A call is kept."""
    session = await RawSession.open(port)
    frames = await (await session.call("two")).take(2)
    assert [bool(frame.id) for frame in frames] == [True, True]


def children() -> dict[str, asyncio.Task[Any]]:
    """Those that run, by their names."""
    prefix = "mcp-persist-"
    tasks = {task.get_name().removeprefix(prefix): task for task in asyncio.all_tasks()}
    return {name: task for name, task in tasks.items() if name in CHILDREN}


async def test_each_child_that_is_killed_lives_again(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    from mcp_persist_middleware import PersistMiddleware

    app = PersistMiddleware(Scripted(two=two), **store.settings | {"drain_seconds": 0.1})
    async with serving(app) as port:
        await works(port)
        born = children()
        assert born.keys() >= CHILDREN - {"notifications"}
        for name, task in born.items():
            task.cancel()
            await until(lambda name=name: f"mcp-persist-{name} ended by an error" in caplog.text)
        await asyncio.sleep(0)
        assert not any(task.done() for task in born.values())
        await works(port)
        assert children().keys() == born.keys()


@pytest.mark.parametrize("redis_part", ["flush", "send", "watch", "wakeups"])
async def test_a_part_of_redis_that_dies_lives_again(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    redis_part: str,
) -> None:
    from mcp_persist_middleware import PersistMiddleware
    from mcp_persist_middleware.stores.redis.client import RedisClient
    from mcp_persist_middleware.stores.redis.deferred import DeferredCalls
    from mcp_persist_middleware.stores.redis.flush import Flusher
    from mcp_persist_middleware.wakeups.redis import RedisWakeups

    kind, method = {
        "flush": (Flusher, "run"),
        "send": (DeferredCalls, "run"),
        "watch": (RedisClient, "_watch"),
        "wakeups": (RedisWakeups, "_run"),
    }[redis_part]
    dying_once(monkeypatch, kind, method)
    given = STORES["sqlite+redis"](tmp_path, request.getfixturevalue).settings
    app = PersistMiddleware(Scripted(two=two), **given | {"drain_seconds": 0.1})
    async with serving(app) as port:
        await works(port)
        if redis_part == "wakeups":
            topic = (await access_to(app.persistence).context()).log.wakeups.subscribe(b"topic")
        await until(lambda: f"mcp-persist-redis-{redis_part} ended by an error" in caplog.text)
        await works(port)
        if redis_part == "wakeups":
            topic.close()
    assert "hunter2" not in caplog.text


def dying_once(monkeypatch: pytest.MonkeyPatch, kind: Any, method: str) -> None:
    """The next run of something dies at once."""
    run = getattr(kind, method)

    async def die(self: Any) -> None:
        monkeypatch.setattr(kind, method, run)
        # The child has this one in its hand.
        if not getattr(self, "has_died", False):
            self.has_died = True
            raise ZeroDivisionError("hunter2")
        await run(self)

    monkeypatch.setattr(kind, method, die)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (RetentionLoop, "_by_itself"),
        (OrphanReaper, "run"),
        (RelayServer, "run"),
        (Writer, "_run"),
        (ShutdownWatch, "_listen"),
    ],
)
async def test_a_child_that_raises_is_said_without_its_text_and_lives_again(
    kind: Any, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mcp_persist_middleware import PersistMiddleware

    run, raised = getattr(kind, method), []

    async def die(self: Any, *given: Any) -> Any:
        if not raised:
            raised.append(1)
            raise ZeroDivisionError("hunter2")
        return await run(self, *given)

    monkeypatch.setattr(kind, method, die)
    shelf = Shelf()
    app = PersistMiddleware(Scripted(two=two), log=lambda _: MemoryLog(shelf), drain_seconds=0.1)
    async with serving(app) as port:
        await until(lambda: "ended by an error" in caplog.text)
        await works(port)
    assert "ZeroDivisionError" in caplog.text
    assert "hunter2" not in caplog.text


STEPS = {
    "the watch": (ShutdownWatch, "aclose"),
    "calls": (Context, "cancel_exchanges"),
    "sessions": (Registry, "keep"),
    "readers": (SessionSubscribers, "aclose"),
    "the writer": (Writer, "aclose"),
    "tasks": (Supervisor, "aclose"),
    "the heartbeat": (Heartbeat, "aclose"),
    "the store": (MemoryLog, "aclose"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", ["raises", "is cancelled"])
async def test_whichever_step_of_closing_fails_all_others_are_done(
    step: str, how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    shelf, done = Shelf(), list[str]()

    def make(_: Settings) -> EventLog:
        return MemoryLog(shelf)

    persistence = Persistence(log=make, store_timeout=0.1, lease_seconds=1)

    def watched(name: str, close: Any) -> Any:
        async def closing(self: Any, *given: Any) -> Any:
            done.append(name)
            await close(self, *given)
            if name == step:
                raise ZeroDivisionError("hunter2") if how == "raises" else asyncio.CancelledError

        return closing

    for name, (kind, method) in STEPS.items():
        monkeypatch.setattr(kind, method, watched(name, getattr(kind, method)))
    await persistence.start()
    heartbeats = [t for t in threading.enumerate() if t.name == "mcp-persist-heartbeat"]
    # Retention does one of the steps as well.
    await until(lambda: done == ["sessions"])
    done.clear()
    async with asyncio.timeout(10):
        await persistence.aclose()
    assert set(done) >= STEPS.keys()
    assert not shelf.kept("worker")
    assert not any(heartbeat.is_alive() for heartbeat in heartbeats)
    await until(lambda: not children())
    if how == "raises":
        assert "not left in order: ZeroDivisionError" in caplog.text
    assert "hunter2" not in caplog.text


async def test_who_ends_a_task_hears_its_own_cancellation() -> None:
    stubborn = asyncio.Event()

    async def deaf() -> None:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    ending = asyncio.create_task(end(task))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    stubborn.set()
    await task


async def test_a_task_that_does_not_end_is_left_after_a_few_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mcp_persist_middleware import supervision

    monkeypatch.setattr(supervision, "_AGAIN", 0.01)
    stubborn = asyncio.Event()

    async def deaf() -> None:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue

    task = asyncio.create_task(deaf(), name="deaf")
    await asyncio.sleep(0)
    await end(task, None)
    assert "deaf does not end" in caplog.text
    stubborn.set()
    await task
