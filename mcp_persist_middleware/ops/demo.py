"""The main job, visible: the same tool calls cut in the middle, without and with the middleware.

Two real servers in processes of their own, the official client in its default mode and in a
handshake session, a relay that resets the connection of every call after its first event.
"""

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client, ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from rich.console import Console
from rich.live import Live
from rich.table import Table

from mcp_persist_middleware.ops.relay import Cut, Plan, Relay, Request

STEPS = 10
PACE = 0.05
RETRY_MS = 500
AT_ONCE = 2
_CALL_TIMEOUT = 20.0
_SETTLE = 0.5

CallTool = Callable[..., Awaitable[Any]]


class DemoError(Exception):
    """A server of the demo did not start; the text is what it said."""


@dataclass(slots=True)
class Row:
    """What one client sees of one server."""

    client: str
    persisted: bool
    calls: int
    relay: Relay | None = None
    done: int = 0
    received: int = 0
    lost: int = 0
    doubled: int = 0
    results: int = 0
    error: str = ""

    @property
    def name(self) -> str:
        """Which client, and whether the middleware is there."""
        return f"{'with' if self.persisted else 'without'}, {self.client}"

    @property
    def cuts(self) -> int:
        """How many calls have been cut so far."""
        return self.relay.cuts if self.relay else 0

    @property
    def whole(self) -> bool:
        """Whether every call was cut, and nothing of it lost or doubled."""
        counts = (self.done, self.cuts, self.results)
        return counts == (self.calls,) * 3 and not (self.lost or self.doubled or self.error)


def run(calls: int = 20, console: Console | None = None) -> int:
    """Run the demo; 0 when nothing was lost or doubled with the middleware, else 1."""
    console = console or Console()
    rows = [
        Row(client, persisted, calls)
        for persisted in (False, True)
        for client in ("mcp.Client", "ClientSession")
    ]
    console.print(
        "mcp.Client runs in its default mode (2026-07-28), ClientSession in 2025-11-25.\n"
        f"A call reports {STEPS} progress events, and its connection is reset after the first.\n"
        f"Clients come back after retry_ms={RETRY_MS} here, to be quick; the default is 3000.",
        highlight=False,
    )
    begin = time.monotonic()
    try:
        with Live(get_renderable=lambda: _table(rows), console=console, refresh_per_second=8):
            asyncio.run(_run(rows))
    except DemoError as error:
        console.print(f"\nThe server did not start: {error}", markup=False, highlight=False)
        return 1
    return _conclude(rows, console, time.monotonic() - begin)


async def _run(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory(prefix="mcp-persist-demo-") as directory:
        url = f"sqlite+aiosqlite:///{Path(directory, 'events.db').as_posix()}"
        async with _server() as bare, _server(url, str(RETRY_MS)) as persisted:
            ports = {False: bare, True: persisted}
            await asyncio.gather(*(_row(row, ports[row.persisted]) for row in rows))


@asynccontextmanager
async def _server(*arguments: str) -> AsyncIterator[int]:
    """A server process; its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mcp_persist_middleware.ops.demo_server",
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    log = asyncio.create_task(process.stderr.read())
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        if not line:
            raise DemoError((await log).decode().strip())
        yield int(line)
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()
        await log


def _cut_calls(request: Request) -> Plan | None:
    return Plan(cut=Cut(events=1)) if request.rpc_method == "tools/call" else None


async def _row(row: Row, port: int) -> None:
    async with Relay(port, _cut_calls) as relay:
        row.relay = relay
        url = f"http://127.0.0.1:{relay.port}/mcp"
        connect = _default_client if row.client == "mcp.Client" else _handshake_client
        try:
            async with connect(url) as call_tool:
                gate = asyncio.Semaphore(AT_ONCE)
                await asyncio.gather(*(_call(row, call_tool, gate) for _ in range(row.calls)))
        except Exception as error:
            row.error = f"{type(error).__name__}: {error}"


@asynccontextmanager
async def _default_client(url: str) -> AsyncIterator[CallTool]:
    async with Client(url, read_timeout_seconds=_CALL_TIMEOUT) as client:
        yield client.call_tool


@asynccontextmanager
async def _handshake_client(url: str) -> AsyncIterator[CallTool]:
    async with (
        streamable_http_client(url) as (read, write),
        ClientSession(read, write, read_timeout_seconds=_CALL_TIMEOUT) as session,
    ):
        await session.initialize()
        yield session.call_tool


async def _call(row: Row, call_tool: CallTool, gate: asyncio.Semaphore) -> None:
    """One tool call, counted as it happens; what it lost is known when it has ended."""
    seen: Counter[float] = Counter()
    complete = asyncio.Event()

    async def progress(value: float, _total: float | None, _message: str | None) -> None:
        row.received += not seen[value]
        row.doubled += bool(seen[value])
        seen[value] += 1
        if len(seen) == STEPS:
            complete.set()

    async with gate:
        try:
            arguments = {"steps": STEPS, "seconds": PACE}
            result = await call_tool("count", arguments, progress_callback=progress)
            row.results += result.content[0].text == f"counted {STEPS}"
            # The client runs the callback in tasks; those of a finished call may still wait.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(complete.wait(), _SETTLE)
        except MCPError as error:
            row.error = row.error or str(error)
        row.lost += STEPS - len(seen)
        row.done += 1


def _table(rows: list[Row]) -> Table:
    table = Table("middleware, client", title="What the client sees")
    for name in ("calls", "cut", "progress", "lost", "doubled", "results"):
        table.add_column(name, justify="right")
    for row in rows:
        lost = "red" if row.lost or row.error else "green"
        table.add_row(
            row.name,
            f"{row.done}/{row.calls}",
            str(row.cuts),
            f"{row.received}/{row.calls * STEPS}",
            f"[{lost}]{row.lost}[/]",
            f"[{'red' if row.doubled else 'green'}]{row.doubled}[/]",
            f"{row.results}/{row.calls}",
            end_section=row is rows[len(rows) // 2 - 1],
        )
    return table


def _conclude(rows: list[Row], console: Console, seconds: float) -> int:
    if not console.is_terminal:
        console.print()  # there, the live table ends without a new line
    for row in rows:
        if row.error:
            console.print(f"{row.name} reports: {row.error}", markup=False, highlight=False)
    kept = all(row.whole for row in rows if row.persisted)
    verdict = "nothing was lost or doubled" if kept else "something was lost or doubled"
    console.print(f"\nWith the middleware {verdict} ({seconds:.0f} s).", highlight=False)
    return 0 if kept else 1
