"""Shows that the official TypeScript client of SDK 1.x has tasks of 2025-11-25 of a server that has
never heard of them.

Run:     python -m tests.peers.core_tasks [--cache DIRECTORY]
         (needs node 20 and npm; the client is installed into the cache directory once)
Expect:  one line of JSON and exit code 0.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from tests.peers.npm import install
from tests.support.scripted import persisted

_PACKAGE = "@modelcontextprotocol/sdk@~1.32.0"
_SCRIPT = Path(__file__).parent / "typescript" / "core_tasks.mjs"


class Name(BaseModel):
    """What the tool asks for."""

    name: str


def server() -> MCPServer:
    """A server without a word of tasks."""
    made = MCPServer("plain", log_level="WARNING")

    @made.tool()
    async def count(n: int, delay: float, ctx: Context) -> str:
        for step in range(n):
            await ctx.report_progress(step + 1, n)
            await asyncio.sleep(delay)
        return f"counted {n}"

    @made.tool()
    async def ask(ctx: Context) -> str:
        answer = await ctx.elicit("who?", Name)
        return f"hello {answer.data.name}"

    return made


async def run(cache: Path) -> dict[str, object]:
    """What the client saw."""
    await asyncio.to_thread(install, cache, _PACKAGE)
    shutil.copy(_SCRIPT, cache)
    with tempfile.TemporaryDirectory() as directory:
        app = server().streamable_http_app()
        async with persisted(app, f"{directory}/events.db") as (port, _):
            command = ["node", cache / _SCRIPT.name, f"http://127.0.0.1:{port}/mcp"]
            process = await asyncio.create_subprocess_exec(*command, stdout=-1)
            said, _ = await asyncio.wait_for(process.communicate(), 60)
    print(said.decode(), end="")
    return dict(json.loads(said))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.peers.core_tasks")
    default = Path.home() / ".cache" / "mcp-persist-middleware-peers"
    parser.add_argument("--cache", type=Path, default=default)
    saw = asyncio.run(run(parser.parse_args().cache))
    assert (saw["count"]["text"], saw["ask"]["text"]) == ("counted 8", "hello ann")  # type: ignore[index]
    assert (saw["cancelled"], saw["listed"]) == (
        "cancelled",
        ["cancelled", "completed", "completed"],
    )


if __name__ == "__main__":
    main()
