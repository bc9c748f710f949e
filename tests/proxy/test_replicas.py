"""Several servers behind one proxy: a session stays where it began, and goes on elsewhere when
nobody is there any more."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import ConfigurationError
from mcp_persist_middleware.ops.proxy import Replicas, Upstream, UpstreamOptions, proxy_app
from tests.proxy.test_upstream import ANSWERS
from tests.proxy.wired import wired
from tests.support.scripted import serving, until
from tests.support.session import RawSession
from tests.support.sse_client import Response, request
from tests.support.stateful import Stateful
from tests.support.stores import free_port

ANSWER = ANSWERS["json"]


class Behind:
    """Two servers with sessions in their memories, and the port of the proxy before them."""

    def __init__(self) -> None:
        self.apps = Stateful(name="a"), Stateful(name="b")
        self.running = AsyncExitStack(), AsyncExitStack()
        """Closing one ends its server."""
        self.port = 0


@asynccontextmanager
async def behind(directory: Path) -> AsyncIterator[Behind]:
    made = Behind()
    async with made.running[0], made.running[1]:
        ports = [
            await stack.enter_async_context(serving(app))
            for app, stack in zip(made.apps, made.running, strict=True)
        ]
        urls = [f"http://127.0.0.1:{port}/mcp" for port in ports]
        store = f"sqlite+aiosqlite:///{directory / 'events.db'}"
        async with serving(proxy_app(urls, store, drain_seconds=0.1)) as made.port:
            yield made


async def counted(session: RawSession) -> Any:
    """How many calls the server has had in this session."""
    frames = [frame async for frame in (await session.call("count")).frames() if frame.data]
    return frames[-1].message["result"]["value"]


async def test_sessions_are_shared_out_and_each_stays_with_the_server_that_began_it(
    tmp_path: Path,
) -> None:
    async with behind(tmp_path) as made:
        sessions = [await RawSession.open(made.port) for _ in range(6)]
        for number in (1, 2, 3):
            assert [await counted(session) for session in sessions] == [number] * 6
        assert [len(app.sessions) for app in made.apps] == [3, 3]
        assert await sessions[0].delete() == 200
        assert sum(len(app.sessions) for app in made.apps) == 5


async def test_the_sessions_of_a_server_that_has_died_go_on_at_another_and_no_others_move(
    tmp_path: Path,
) -> None:
    async with behind(tmp_path) as made:
        sessions = [await RawSession.open(made.port) for _ in range(4)]
        assert [await counted(session) for session in sessions] == [1] * 4
        stay = set(made.apps[1].sessions)
        await made.running[0].aclose()
        for session in sessions:
            assert await counted(session) == (2 if session.session_id in stay else 1)
        assert len(made.apps[1].sessions) == 4
        assert await counted(await RawSession.open(made.port)) == 1


def replicas(*ports: int, **options: Any) -> Replicas:
    urls = [f"http://127.0.0.1:{port}/mcp" for port in ports]
    return Replicas([Upstream(url, UpstreamOptions(**options)) for url in urls])


async def in_session(port: int) -> Response:
    return await request(port, "POST", "/mcp", headers={"mcp-session-id": "s-1"}, body=b"{}")


async def sessionless(port: int) -> Response:
    return await request(port, "POST", "/mcp", body=b"{}")


async def test_a_server_that_is_full_keeps_its_sessions_and_another_takes_what_has_none() -> None:
    async with wired(ANSWER) as one, wired(ANSWER) as two:
        app = replicas(one.port, two.port, max_requests=1)
        home, other = app.upstreams
        app.homes["s-1"] = home
        home.running = 1
        async with serving(app) as port:
            refused = await in_session(port)
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert [(await sessionless(port)).status for _ in range(3)] == [200] * 3
            assert (len(one.asked), len(two.asked)) == (0, 3)
            other.running = 1
            assert (await sessionless(port)).status == 503


async def test_a_server_that_is_late_keeps_its_sessions_while_its_circuit_is_open() -> None:
    async with wired(ANSWER) as one, wired(ANSWER) as two:
        app = replicas(one.port, two.port)
        app.homes["s-1"] = app.upstreams[0]
        for _ in range(5):
            app.upstreams[0].breaker.failed()
        async with serving(app) as port:
            refused = await in_session(port)
            assert refused.status == 503
            assert 1 <= int(refused.headers["retry-after"]) <= 5
            assert [(await sessionless(port)).status for _ in range(3)] == [200] * 3
            assert (len(one.asked), len(two.asked)) == (0, 3)


async def test_of_a_server_that_is_gone_others_have_the_whole_request() -> None:
    body = b"0123456789" * 100_000
    async with wired(ANSWER) as two:
        app = replicas(free_port(), two.port)
        app.homes["s-1"] = app.upstreams[0]
        async with serving(app) as port:
            named = {"mcp-session-id": "s-1"}
            for _ in range(6):  # five open the circuit
                response = await request(port, "POST", "/mcp", headers=named, body=body)
                assert response.status == 200
                app.homes["s-1"] = app.upstreams[0]
            assert [asked.body == body for asked in two.asked] == [True] * 6
            assert app.circuit() == {
                app.upstreams[0].pool.name: "open",
                app.upstreams[1].pool.name: "closed",
            }


async def test_where_nobody_is_there_it_is_tried_until_one_is_back_or_the_time_is_over() -> None:
    ports = free_port(), free_port()
    app = replicas(*ports, connect_timeout=5)
    async with serving(app) as port:
        asking = [asyncio.create_task(sessionless(port)) for _ in range(20)]
        await until(lambda: all(upstream.is_gone for upstream in app.upstreams))
        async with wired(ANSWER, port=ports[1]) as server:
            assert [(await each).status for each in asking] == [200] * 20
            assert len(server.asked) == 20
    app = replicas(*ports, connect_timeout=0.1)
    async with serving(app) as port:
        refused = await sessionless(port)
        assert (refused.status, refused.headers["retry-after"]) == (502, "1")


async def test_health_shows_the_circuit_of_each_server(tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1:{free_port()}/mcp" for _ in range(2)]
    app = proxy_app(urls, f"sqlite+aiosqlite:///{tmp_path / 'events.db'}")
    async with serving(app) as port:
        response = await request(port, "GET", "/healthz")
        assert json.loads(await response.body())["circuit"] == dict.fromkeys(urls, "closed")


@pytest.mark.parametrize("urls", [[], ["http://127.0.0.1:1/mcp"] * 2])
def test_no_server_and_the_same_server_twice_are_refused(urls: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="several different ones"):
        proxy_app(urls)
