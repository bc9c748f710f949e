"""The second act: `kill -9` in the middle of a call, and a restart. The same client object goes on.

Without the middleware its session is gone; with it the killed call ends with an error, for nobody
knows what the tool had done, and the next call is answered in the same session.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from mcp.shared.exceptions import MCPError
from rich.console import Console
from rich.table import Table

from mcp_persist_middleware.ops.demo_parts import CallTool, DemoServer, handshake_client, running
from mcp_persist_middleware.supervision import scoped
from mcp_persist_middleware.testing import FaultProxy

_BEFORE, _STEPS = 3, 5
_LONG, _PACE = 1000, 0.1
_PATIENCE = 12.0
_INTERRUPTED = "Interrupted"


@dataclass(slots=True)
class KillRow:
    """What the client sees of one server."""

    persisted: bool
    killed: str = ""
    following: str = ""
    progress: str = ""

    @property
    def whole(self) -> bool:
        """Whether the call ended honestly, and the session went on."""
        return self.killed.startswith(_INTERRUPTED) and self.following == f"counted {_STEPS}"


async def play(console: Console, directory: Path) -> bool:
    """Play the act; whether the middleware kept its word."""
    console.print(
        "ClientSession (2025-11-25) calls a tool. After its third progress event the\n"
        "server is killed (SIGKILL) and started again; then the same object calls again.",
        highlight=False,
    )
    rows = [KillRow(persisted=False), KillRow(persisted=True)]
    await asyncio.gather(*(_row(row, directory) for row in rows))
    table = Table("middleware", "progress before", "the killed call", "the next call")
    for row in rows:
        colour = "green" if row.whole else "red"
        name = "with" if row.persisted else "without"
        table.add_row(name, row.progress, row.killed, f"[{colour}]{row.following}[/]")
    console.print(table)
    return all(row.whole for row in rows if row.persisted)


async def _row(row: KillRow, directory: Path) -> None:
    url = f"sqlite+aiosqlite:///{(directory / 'kill.db').as_posix()}" if row.persisted else ""
    async with running(DemoServer(url)) as server, FaultProxy(server.port) as proxy:
        try:
            async with handshake_client(f"http://127.0.0.1:{proxy.port}/mcp") as call_tool:
                await _story(row, server, proxy, call_tool)
        except* (MCPError, OSError) as errors:
            row.following = row.following or str(errors.exceptions[0])


async def _story(row: KillRow, server: DemoServer, proxy: FaultProxy, call_tool: CallTool) -> None:
    seen: list[int] = []
    enough = asyncio.Event()

    async def progress(value: float, _total: float | None, _message: str | None) -> None:
        seen.append(int(value))
        if len(seen) >= _BEFORE:
            enough.set()

    with scoped(_call(call_tool, _LONG, progress), "demo-call") as call:
        await asyncio.wait_for(enough.wait(), _PATIENCE)
        await server.kill()
        await server.start()
        proxy.target = server.port
        row.killed = await call
    row.progress = " ".join(map(str, seen))
    row.following = await _call(call_tool, _STEPS, progress)


async def _call(call_tool: CallTool, steps: int, progress: object) -> str:
    """What became of a call, in words."""
    arguments = {"steps": steps, "seconds": _PACE}
    try:
        result = await asyncio.wait_for(
            call_tool("count", arguments, progress_callback=progress), _PATIENCE
        )
    except TimeoutError:
        return f"no answer in {_PATIENCE:.0f} s"
    except MCPError as error:
        return str(error)
    return str(result.content[0].text)
