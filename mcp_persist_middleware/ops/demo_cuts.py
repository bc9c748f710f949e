"""The first act: the same tool calls cut in the middle, without and with the middleware.

Two real servers, the official client in its default mode and in a handshake session, a proxy that
resets the connection of every call after its first event.
"""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mcp.shared.exceptions import MCPError
from rich.console import Console
from rich.live import Live
from rich.table import Table

from mcp_persist_middleware.ops.demo_parts import (
    CallTool,
    DemoServer,
    default_client,
    handshake_client,
    running,
)
from mcp_persist_middleware.testing import Cut, FaultProxy, Plan, ProxiedRequest

STEPS = 10
PACE = 0.05
RETRY_MS = 500
AT_ONCE = 2
_SETTLE = 0.5


@dataclass(slots=True)
class CutRow:
    """What one client sees of one server."""

    client: str
    persisted: bool
    calls: int
    proxy: FaultProxy | None = None
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
        return self.proxy.cuts if self.proxy else 0

    @property
    def whole(self) -> bool:
        """Whether every call was cut, and nothing of it lost or doubled."""
        counts = (self.done, self.cuts, self.results)
        return counts == (self.calls,) * 3 and not (self.lost or self.doubled or self.error)


async def play(console: Console, directory: Path, calls: int) -> bool:
    """Play the act; whether nothing was lost or doubled with the middleware."""
    rows = [
        CutRow(client, persisted, calls)
        for persisted in (False, True)
        for client in ("mcp.Client", "ClientSession")
    ]
    console.print(
        "mcp.Client runs in its default mode (2026-07-28), ClientSession in 2025-11-25.\n"
        f"A call reports {STEPS} progress events, and its connection is reset after the first.\n"
        f"Clients come back after retry_ms={RETRY_MS} here, to be quick; the default is 3000.",
        highlight=False,
    )
    with Live(get_renderable=lambda: _table(rows), console=console, refresh_per_second=8):
        await _run(rows, directory)
    if not console.is_terminal:
        console.print()  # there, the live table ends without a new line
    for row in rows:
        if row.error:
            console.print(f"{row.name} reports: {row.error}", markup=False, highlight=False)
    return all(row.whole for row in rows if row.persisted)


async def _run(rows: list[CutRow], directory: Path) -> None:
    url = f"sqlite+aiosqlite:///{(directory / 'cut.db').as_posix()}"
    async with running(DemoServer()) as bare, running(DemoServer(url, RETRY_MS)) as persisted:
        ports = {False: bare.port, True: persisted.port}
        await asyncio.gather(*(_row(row, ports[row.persisted]) for row in rows))


def _cut_calls(request: ProxiedRequest) -> Plan | None:
    return Plan(cut=Cut(events=1)) if request.rpc_method == "tools/call" else None


async def _row(row: CutRow, port: int) -> None:
    async with FaultProxy(port, _cut_calls) as proxy:
        row.proxy = proxy
        url = f"http://127.0.0.1:{proxy.port}/mcp"
        connect = default_client if row.client == "mcp.Client" else handshake_client
        try:
            async with connect(url) as call_tool:
                gate = asyncio.Semaphore(AT_ONCE)
                await asyncio.gather(*(_call(row, call_tool, gate) for _ in range(row.calls)))
        except Exception as error:
            row.error = f"{type(error).__name__}: {error}"


async def _call(row: CutRow, call_tool: CallTool, gate: asyncio.Semaphore) -> None:
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


def _table(rows: list[CutRow]) -> Table:
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
