"""Two workers behind the balancers whose configuration is among the examples."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from tests.examples.started import EXAMPLES
from tests.support.packaged import program
from tests.support.processes import ServerProcess, running
from tests.support.stores import free_port

pytestmark = [pytest.mark.packages, pytest.mark.timeout(120)]
ROUNDS, STEPS = 5, 4
# A worker that is gone is known to be so after lease_seconds (on SQLite at once).
SETTINGS = {"MCP_PERSIST_LEASE_SECONDS": "3", "MCP_PERSIST_STORE_TIMEOUT": "2"}
WRITTEN = ("8001", "8002", "8080")


@pytest.fixture(params=["haproxy on PostgreSQL", "nginx on SQLite and Redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param.startswith("haproxy"):
        return {"MCP_PERSIST_URL": request.getfixturevalue("new_postgres")()}
    redis = request.getfixturevalue("redis_url")
    return {"MCP_PERSIST_URL": str(tmp_path / "events.db"), "MCP_PERSIST_REDIS": redis}


@contextmanager
def balancer(directory: Path, kind: str, ports: list[int]) -> Iterator[int]:
    """HAProxy or nginx with its example's configuration, but for the ports."""
    name = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[kind]
    text = (EXAMPLES / name).read_text()
    front = free_port()
    for written, real in zip(WRITTEN, (*ports, front), strict=True):
        assert f":{written}" in text
        text = text.replace(f":{written}", f":{real}")
    path = directory / name
    path.write_text(text)
    place = Path("/usr/sbin")
    command = [program(kind, kind, place), "-f", str(path), "-db"]
    if kind == "nginx":
        # Its own temporary files go where this run's do.
        command = [command[0], "-p", str(directory), "-c", str(path)]
        command += ["-g", f"pid {directory / 'pid'};"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield front
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


@asynccontextmanager
async def session_at(port: int) -> AsyncIterator[ClientSession]:
    async def answer(_: Any, question: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ann"})

    async with (
        streamable_http_client(f"http://127.0.0.1:{port}/mcp") as streams,
        ClientSession(*streams, read_timeout_seconds=30, elicitation_callback=answer) as session,
    ):
        await session.initialize()
        yield session


async def listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def test_one_session_through_two_workers_and_the_death_of_one(
    tmp_path: Path, store: dict[str, str]
) -> None:
    async with AsyncExitStack() as stack:
        workers = [
            ServerProcess(
                "examples.server_workers:app", tmp_path / f"{name}.log", environ=SETTINGS | store
            )
            for name in ("one", "two")
        ]
        for worker in workers:
            await stack.enter_async_context(running(worker))
        kind = "nginx" if "MCP_PERSIST_REDIS" in store else "haproxy"
        front = stack.enter_context(balancer(tmp_path, kind, [each.port for each in workers]))
        await listening(front)
        async with session_at(front) as session:
            home = await whole(session)
            await cut_short(session, home)


async def ask(session: ClientSession, tool: str, **arguments: Any) -> str:
    result = await session.call_tool(tool, arguments)
    return str(result.content[0].text)  # type: ignore[union-attr]


async def whole(session: ClientSession) -> int:
    """Calls, questions and state meet, wherever they arrive; the process where they do."""
    homes = set()
    for number in range(1, ROUNDS + 1):
        seen: list[float] = []

        async def progress(value: float, total: float | None, message: str | None) -> None:
            seen.append(value)

        result = await session.call_tool("count", {"n": STEPS}, progress_callback=progress)
        assert result.content[0].text == f"counted {STEPS}"  # type: ignore[union-attr]
        assert seen == list(range(1, STEPS + 1)), "progress was lost or doubled"
        assert await ask(session, "greet") == "hello Ann"
        visits, home = (await ask(session, "visit")).split()
        assert int(visits) == number, "the session's state is not one"
        homes.add(int(home))
    (home_pid,) = homes
    return home_pid


async def cut_short(session: ClientSession, home: int) -> None:
    """The worker dies in a call, which ends with an error; the session goes on elsewhere."""
    under_way = asyncio.Event()

    async def progress(value: float, total: float | None, message: str | None) -> None:
        under_way.set()

    call = asyncio.create_task(session.call_tool("count", {"n": 1000}, progress_callback=progress))
    await asyncio.wait_for(under_way.wait(), 20)
    os.kill(home, signal.SIGKILL)
    (ended,) = await asyncio.gather(call, return_exceptions=True)
    assert isinstance(ended, MCPError), f"nobody ran it to its end: {ended}"
    assert str(ended).startswith("Interrupted")
    visits, elsewhere = (await ask(session, "visit")).split()
    assert int(elsewhere) != home
    assert visits == "1", "its tools' memory begins anew"
