"""G6 where workers meet at a deletion: what was deleted is held by none of them."""

import asyncio
from pathlib import Path

import pytest

from mcp_persist_middleware.log.outer_parts import OuterSessions
from mcp_persist_middleware.log.parts import Sessions
from mcp_persist_middleware.model import SessionKey
from tests.guarantees.test_g6_sessions_live_on import value
from tests.support.homes import Worker, on, workers
from tests.support.scripted import persisted, until
from tests.support.session import RawSession
from tests.support.stateful import Message, Receive, Send, Stateful
from tests.support.stores import STORES, Store


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of this test's own."""
    return STORES[request.param](tmp_path, request.getfixturevalue)


@pytest.fixture
def url(store: Store) -> str:
    """Its URL."""
    return str(store.settings["url"])


class Gated(Stateful):
    """Lets a DELETE wait, before it is done or behind it, until the test says `go`."""

    def __init__(self, name: str, *, done_first: bool = False) -> None:
        super().__init__(name=name)
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self._done_first = done_first

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def waiting(message: Message) -> None:
            if self._done_first and message["type"] == "http.response.start":
                await self._pause()
            await send(message)

        if scope["type"] != "http" or scope["method"] != "DELETE":
            waiting = send  # type: ignore[assignment]
        elif not self._done_first:
            await self._pause()
        await super().__call__(scope, receive, waiting)

    async def _pause(self) -> None:
        self.asked.set()
        await self.go.wait()


class GatedGreeting(Stateful):
    """Lets an `initialize` wait until the test says `go`."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    async def _initialize(self, message: Message, send: Send) -> None:
        self.asked.set()
        await self.go.wait()
        await super()._initialize(message, send)


async def assert_gone(session: RawSession, *workers: Worker) -> None:
    """No worker knows it, and no application has it."""
    for worker in workers:
        assert await value(on(session, worker)) == 404
        assert not worker.app.sessions
        assert not worker.registry._held._all


async def moved(session: RawSession, away: Worker, to: Worker) -> None:
    """Have the session go from a worker that shuts down to another one."""
    await away.shut_down(to)
    assert await value(on(session, to)) == 1
    assert len(to.app.sessions) == 1, "it has come here"


@pytest.mark.parametrize(("asked", "done_first"), [(0, True), (1, False), (2, False)])
async def test_a_session_that_moves_while_it_is_deleted_is_deleted_where_it_has_gone(
    url: str, asked: int, done_first: bool
) -> None:
    home = Gated("home", done_first=done_first)
    async with workers(url, home, Stateful(name="next"), Stateful(name="third")) as found:
        session = await RawSession.open(found[0].port)
        deleting = asyncio.create_task(on(session, found[asked]).delete())
        await home.asked.wait()
        await moved(session, found[0], found[1])
        home.go.set()
        assert await deleting == 200
        await assert_gone(session, *found)


class LateMove(OuterSessions):
    """Tells of a move a while after it was committed."""

    def __init__(self, inner: Sessions) -> None:
        super().__init__(inner)
        self.done, self.go = asyncio.Event(), asyncio.Event()

    async def move(self, key: SessionKey, generation: int, home: str) -> bool:
        has_moved = await super().move(key, generation, home)
        self.done.set()
        await self.go.wait()
        return has_moved


@pytest.mark.parametrize("asked", [0, 2])
async def test_a_session_that_is_on_its_way_to_another_worker_is_deleted_when_it_is_there(
    url: str, asked: int
) -> None:
    home = Gated("home")
    async with workers(url, home, Stateful(name="next"), Stateful(name="third")) as found:
        session = await RawSession.open(found[0].port)
        deleting = asyncio.create_task(on(session, found[asked]).delete())
        await home.asked.wait()
        late = found[1].registry._sessions = LateMove(found[1].registry._sessions)
        await found[0].shut_down(found[1])
        moving = asyncio.create_task(value(on(session, found[1])))
        await late.done.wait()
        home.go.set()
        await until(lambda: not home.sessions)
        late.go.set()
        assert await moving in (1, 404), "whichever comes first there"
        assert await deleting == 200
        await assert_gone(session, *found)


async def test_a_session_that_is_made_anew_while_it_is_deleted_is_deleted_all_the_same(
    url: str,
) -> None:
    home = Gated("home", done_first=True)
    async with workers(url, home) as (worker,):
        session = await RawSession.open(worker.port)
        deleting = asyncio.create_task(session.delete())
        await home.asked.wait()
        assert await value(session) == 1, "the application had forgotten it"
        home.go.set()
        assert await deleting == 200
        await assert_gone(session, worker)


async def test_a_session_that_is_deleted_on_its_way_to_another_worker_does_not_arrive(
    url: str,
) -> None:
    home, slow = Gated("home"), GatedGreeting("next")
    home.go.set()
    async with workers(url, home, slow) as found:
        session = await RawSession.open(found[0].port)
        await found[0].shut_down(found[1])
        moving = asyncio.create_task(value(on(session, found[1])))
        await slow.asked.wait()
        assert await session.delete() == 200
        slow.go.set()
        assert await moving == 404
        await assert_gone(session, *found)


async def test_what_an_operator_has_ended_its_home_serves_no_more(store: Store) -> None:
    url = store.settings["url"]
    async with persisted(app := Stateful(), url, purge_interval=0.05) as (port, _):
        ended, lives = [await RawSession.open(port) for _ in range(2)]
        log = store.make_log()
        await log.open("operator")
        key = SessionKey("default", "/mcp", ended.session_id or "")
        assert await log.sessions.delete(key, log.now() + 60.0)
        await log.aclose()
        async with asyncio.timeout(20):
            while (status := (await ended.call("count")).status) != 404:
                assert status == 200
        assert await value(lives) == 1
        assert app.sessions, "what the application keeps is its own"
