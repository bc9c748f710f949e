"""The main job, visible: what a client sees without and with the middleware, in three acts."""

import asyncio
import logging
import tempfile
import time
from pathlib import Path

from rich.console import Console

from mcp_persist_middleware.ops import demo_cuts, demo_kill, demo_workers
from mcp_persist_middleware.ops.demo_parts import DemoError


def run(calls: int = 20, console: Console | None = None) -> int:
    """Run the demo; 0 when nothing was lost or doubled with the middleware, else 1."""
    console = console or Console()
    # What the client says of a server that has lost its session is in the table.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    begin = time.monotonic()
    try:
        kept = asyncio.run(_acts(console, calls))
    except DemoError as error:
        console.print(f"\nThe server did not start: {error}", markup=False, highlight=False)
        return 1
    verdict = "nothing was lost or doubled" if kept else "something was lost or doubled"
    seconds = time.monotonic() - begin
    console.print(f"\nWith the middleware {verdict} ({seconds:.0f} s).", highlight=False)
    return 0 if kept else 1


async def _acts(console: Console, calls: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="mcp-persist-demo-") as directory:
        console.print("[bold]1. Connections are cut[/]")
        cut = await demo_cuts.play(console, Path(directory), calls)
        console.print("\n[bold]2. The server is killed in the middle of a call[/]")
        killed = await demo_kill.play(console, Path(directory))
        console.print("\n[bold]3. Two workers, and no request knows where it goes[/]")
        shared = await demo_workers.play(console, Path(directory))
    return cut and killed and shared
