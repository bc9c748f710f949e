"""The application of the seam and server scripts: `uvicorn --factory tests.peers.apps:app`.

`PEER_VARIANT` is `bare`, `ours` or `competitor`; `PEER_DATABASE` is the file of its store. For
failures on purpose `PEER_URL` replaces that file and `PEER_SETTING` names one more setting. It
runs in the competitor's interpreter too, so nothing of ours is imported at the top.
"""

import asyncio
import importlib
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

App = Callable[..., Awaitable[None]]


def _server() -> Any:
    module: Any = importlib.import_module("mcp.server.mcpserver")
    context: Any = module.Context
    server = module.MCPServer("peers", log_level="WARNING")

    async def count(n: int, rate: float, ctx: context) -> str:
        """Report n progress notifications at this rate; 0 is as fast as it goes."""
        begin = time.monotonic()
        try:
            for i in range(1, n + 1):
                if rate:
                    await asyncio.sleep(max(0.0, begin + i / rate - time.monotonic()))
                await ctx.report_progress(i, n, f"step {i} of {n}")
        except asyncio.CancelledError:
            print(f"count {n} cancelled", file=sys.stderr, flush=True)
            raise
        print(f"count {n} finished", file=sys.stderr, flush=True)
        return f"counted {n}"

    server.tool()(count)
    return server


def app() -> App:
    """The application that the environment describes; its endpoint is `/mcp` or `/mcp/`."""
    variant, database = os.environ["PEER_VARIANT"], os.environ["PEER_DATABASE"]
    if variant == "competitor":
        library: Any = importlib.import_module("mcp_persist")
        competitor: App = library.with_persistence(_server(), backend="sqlite", url=database)
        return competitor
    bare: App = _server().streamable_http_app()
    if variant == "bare":
        return bare
    ours: Any = importlib.import_module("mcp_persist_middleware")
    settings: dict[str, Any] = {}
    if setting := os.environ.get("PEER_SETTING"):
        settings[setting] = 1.0
    url = os.environ.get("PEER_URL", f"sqlite+aiosqlite:///{database}")
    persisted: App = ours.PersistMiddleware(bare, url=url, **settings)
    return persisted
