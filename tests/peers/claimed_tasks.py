"""FastMCP's own client (with the package fastmcp-tasks every one of its clients knows tasks) has
the results of a plain server's long tools through the tasks of the middleware, and answers what
they ask. Nothing in the client or in the server says that there are two different libraries.

Run, in an environment that has fastmcp-tasks:  python -m tests.peers.claimed_tasks
Expect:  exit code 0; each call was a task, and each result is the tool's.
"""

import asyncio
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.processes import ServerProcess, running

_APP = "tests.peers.everything:app()"


async def answer(message: str, response_type: Any, params: Any, context: Any) -> Any:
    """Whoever is asked for something says yes, or his name."""
    del response_type, context
    fields = params.requested_schema["properties"]
    print(f"  asked: {message}")
    return {name: True if of["type"] == "boolean" else "Alice" for name, of in fields.items()}


async def calls(url: str) -> bool:
    # Who has imported it knows tasks, in every client.
    importlib.import_module("fastmcp_tasks")
    client_type: Any = importlib.import_module("fastmcp").Client
    right = True
    async with client_type(url, elicitation_handler=answer) as client:
        for tool, arguments, expected in (
            ("greet", {"name": "World"}, "Hello, World!"),
            ("slow_compute", {"seconds": 3.0, "label": "it"}, "it took 3 s"),
            ("confirm_delete", {"filename": "a.txt"}, "a.txt: True"),
            ("multi_input", {}, "Alice and Alice"),
            ("test_tool_with_task", {}, "Hello, Alice!"),
        ):
            result = await client.call_tool(tool, arguments)
            text = result.content[0].text
            print(f"{tool}: {text!r}")
            right &= text == expected
        failing = await client.call_tool("failing_job", {}, raise_on_error=False)
        print(f"failing_job: is_error={failing.is_error}")
        return right and failing.is_error


async def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "server.log")
        environ = {"PEER_DATABASE": str(Path(directory, "events.db"))}
        async with running(ServerProcess(_APP, log, environ=environ)) as server:
            right = await calls(server.url)
        from mcp_persist_middleware.settings import Settings
        from mcp_persist_middleware.stores import connect

        store = connect.make_log(Settings.load({"url": environ["PEER_DATABASE"]}, {}))
        await store.open("looks")
        assert store.jobs is not None
        tools = [job.tool for job in await store.jobs.list(None, b"", 100)]
        await store.aclose()
    print(f"tasks: {tools[::-1]}")
    right &= len(tools) == 5
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
