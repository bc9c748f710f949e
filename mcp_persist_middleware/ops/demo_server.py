"""The demo's MCP server: the official SDK, bare or with the middleware in front.

`python -m mcp_persist_middleware.ops.demo_server [DATABASE_URL RETRY_MS]` prints its port, and
ends when its standard input does, so that it cannot outlive the demo.
"""

import asyncio
import os
import socket
import sys
import threading

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel
from starlette.types import ASGIApp

server = MCPServer("demo", log_level="WARNING")


@server.tool()
async def count(steps: int, seconds: float, ctx: Context) -> str:
    """Report one progress notification every few moments, then answer."""
    for step in range(1, steps + 1):
        await asyncio.sleep(seconds)
        await ctx.report_progress(step, steps, f"step {step} of {steps}")
    return f"counted {steps}"


class Name(BaseModel):
    """What `greet` asks its user for."""

    name: str


@server.tool()
async def greet(ctx: Context) -> str:
    """Ask the user for a name in the middle of the call, then greet them."""
    answer = await ctx.elicit("What is your name?", Name)
    return f"hello {answer.data.name}" if answer.action == "accept" else "hello nobody"


def app(arguments: list[str]) -> ASGIApp:
    """The bare app, or the same one with the middleware: the line a user adds."""
    bare = server.streamable_http_app()
    if not arguments:
        return bare
    # Imported here, so that the bare server is bare.
    from mcp_persist_middleware import PersistMiddleware

    url, retry_ms = arguments[0], int(arguments[1])
    return PersistMiddleware(bare, url=url, retry_ms=retry_ms, modern_retry_ms=retry_ms)


class _Announced(uvicorn.Server):
    """Prints its port once it serves; a failed start-up ends without."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            print(sockets[0].getsockname()[1], flush=True)


def main() -> None:
    """Serve until the standard input ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app(sys.argv[1:]),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    runner = _Announced(config)

    def watch() -> None:
        # Not the buffered reader: its lock, held here, would abort an interpreter that ends.
        while os.read(sys.stdin.fileno(), 1):
            pass
        runner.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    runner.run(sockets=[listener])


if __name__ == "__main__":
    main()
