"""A `subscriptions/listen` hears of what changes on any worker: SDK servers whose bus is their
process's own, two workers of them on one event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from mcp.client import Client
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged

from mcp_persist_middleware.streams.hints import board
from tests.support.scripted import persisted, until
from tests.support.session import MODERN, RawSession
from tests.support.sse_client import Response
from tests.support.stores import STORES, Store

pytestmark = pytest.mark.timeout(60)
_ID = "io.modelcontextprotocol/subscriptionId"
MINE, OTHER = "file:///mine", "file:///other"


@pytest.fixture(params=["sqlite", "postgres", "sqlite+redis"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Store:
    return STORES[request.param](tmp_path, request.getfixturevalue)


class Changing:
    """An MCP server whose tool `change` says that something has."""

    def __init__(self) -> None:
        self.server = MCPServer("changing", log_level="WARNING")
        self.server.tool()(self.change)
        self.app = self.server.streamable_http_app()
        self.listens = 0
        """How many listens it has now."""

    async def change(self, what: str, ctx: Context) -> str:
        """Change something."""
        await (ctx.notify_resource_updated(what) if what else ctx.notify_tools_changed())
        return what

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_listen = (b"mcp-method", b"subscriptions/listen") in scope.get("headers", [])
        self.listens += is_listen
        try:
            await self.app(scope, receive, send)
        finally:
            self.listens -= is_listen


@dataclass
class Two:
    """Two workers and their ports."""

    apps: list[Changing]
    ports: list[int]

    async def change(self, worker: int, what: str) -> None:
        """Have something changed there, by a client that is told nothing of it."""
        session = RawSession(self.ports[worker], MODERN)
        response = await session.call("change", what=what)
        assert response.status == 200
        assert b'"result"' in await response.body()
        response.close()


@asynccontextmanager
async def two(store: Store, **settings: Any) -> AsyncIterator[Two]:
    apps = [Changing(), Changing()]
    async with AsyncExitStack() as stack:
        ports = []
        for n, app in enumerate(apps):
            given = store.settings | {"retry_ms": 2000 + n} | settings
            port, _ = await stack.enter_async_context(persisted(app, **given))
            ports.append(port)
        yield Two(apps, ports)


@dataclass
class Listening:
    """A client that listens, byte by byte."""

    response: Response
    number: str
    had: list[dict[str, Any]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    @property
    def told(self) -> list[str]:
        """What changed, as far as it was told."""
        return [m["params"].get("uri", "") for m in self.had[1:] if "method" in m]

    async def read(self) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            async for frame in self.response.frames(30):
                if frame.data:
                    self.had.append(frame.message)


@asynccontextmanager
async def listening(port: int, *uris: str, number: str = "l1", **more: Any) -> Any:
    notifications = {"toolsListChanged": True, "resourceSubscriptions": list(uris)}
    session = RawSession(port, MODERN, **more)
    params = {"notifications": notifications}
    response = await session.post("subscriptions/listen", params, request_id=number)
    assert response.is_stream
    listen = Listening(response, number)
    task = asyncio.create_task(listen.read())
    try:
        await until(lambda: listen.had)
        assert listen.had[0]["method"] == "notifications/subscriptions/acknowledged"
        yield listen
    finally:
        response.reset()
        await asyncio.wait({task})


async def heard(workers: Two, worker: int, listen: Listening) -> int:
    """Change something there until a listen hears of it: the workers know of each other then. How
    much it has heard."""
    async with asyncio.timeout(20):
        while not listen.told:
            await workers.change(worker, MINE)
            await asyncio.sleep(0.3)
    return len(listen.told)


async def test_what_changes_on_another_worker_is_heard_once_and_only_what_was_asked_for(
    store: Store,
) -> None:
    async with two(store) as workers, listening(workers.ports[0], MINE) as listen:
        # Nobody listens on the second worker: its application would tell nobody.
        before = await heard(workers, 1, listen)
        await workers.change(1, OTHER)
        await workers.change(1, "")
        await until(lambda: "" in listen.told)
        assert set(listen.told) == {MINE, ""}
        assert listen.told[before:] == [""]
        for message in listen.had[1:]:
            assert message["params"]["_meta"] == {_ID: "l1"}
        # What the client's own worker says comes once, and from there.
        await workers.change(0, MINE)
        await until(lambda: listen.told[-1] == MINE)
        await workers.change(1, "")
        await until(lambda: listen.told[-1] == "")
        assert listen.told[before:] == ["", MINE, ""]


async def test_a_listen_that_comes_back_elsewhere_hears_once_of_what_it_missed(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_SKEW", 0.0)
    left, leave = [], board.Board.leave

    def noted(self: board.Board, reader: Any, inner: Any, **given: Any) -> None:
        leave(self, reader, inner, **given)
        left.append(reader)

    monkeypatch.setattr(board.Board, "leave", noted)
    store = Store("sqlite", {"url": tmp_store})
    async with two(store) as workers:
        async with listening(workers.ports[0], MINE) as listen:
            await heard(workers, 1, listen)
        # What changes before its worker has seen it leave, it has not missed.
        await until(lambda: left)
        await workers.change(1, MINE)
        await workers.change(1, MINE)
        await workers.change(1, OTHER)
        async with listening(workers.ports[1], MINE, number="l2") as listen:
            await until(lambda: listen.told)
            assert listen.had[1]["params"]["_meta"] == {_ID: "l2"}
            await workers.change(0, "")
            await until(lambda: listen.told[-1] == "")
            assert listen.told == [MINE, ""]
        # Who was not there has missed nothing.
        async with listening(workers.ports[1], MINE, OTHER, number="l3") as listen:
            await workers.change(1, "")
            await until(lambda: listen.told)
            assert listen.told == [""]


async def test_nothing_runs_when_nobody_listens(tmp_store: str) -> None:
    store = Store("sqlite", {"url": tmp_store})
    async with two(store, missed_hints=0) as workers:
        async with listening(workers.ports[0], MINE) as listen:
            await heard(workers, 1, listen)
            assert [app.listens for app in workers.apps] == [1, 1]
        await until(lambda: [app.listens for app in workers.apps] == [0, 0])
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert "mcp-persist-hints" not in names


async def test_each_worker_keeps_to_itself_where_the_user_says_so(tmp_store: str) -> None:
    store = Store("sqlite", {"url": tmp_store})
    async with (
        two(store, share_hints=False) as workers,
        listening(workers.ports[0], MINE) as listen,
    ):
        for _ in range(3):
            await workers.change(1, MINE)
        await workers.change(0, "")
        await until(lambda: listen.told)
        assert listen.told == [""]
        assert workers.apps[1].listens == 0


async def test_the_official_client_hears_of_a_change_elsewhere(tmp_store: str) -> None:
    store = Store("sqlite", {"url": tmp_store})
    async with (
        two(store) as workers,
        listening(workers.ports[0], MINE) as witness,
        Client(f"http://127.0.0.1:{workers.ports[0]}/mcp") as client,
        client.listen(tools_list_changed=True, resource_subscriptions=[MINE]) as listen,
    ):
        await heard(workers, 1, witness)
        assert await anext(listen) == ResourceUpdated(MINE)
        await workers.change(1, "")
        async with asyncio.timeout(10):
            while not isinstance(await anext(listen), ToolsListChanged):
                pass
