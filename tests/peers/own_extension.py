"""A FastMCP server with its own tasks extension (the package fastmcp-tasks) behind the middleware:
what its clients read is byte for byte what it wrote, and what it reads is what they wrote. Run in
an environment that has both; exits 0 when all is as it should be.

    python -m tests.peers.own_extension DIRECTORY
"""

import asyncio
import importlib
import json
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from mcp_persist_middleware import PersistMiddleware
from tests.support.task_client import TASKS, TaskClient


class Spied:
    """An application; what it was sent, and what it has sent."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.asked: list[bytes] = []
        self.said: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked, said = bytearray(), bytearray()

        async def hear() -> Any:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def say(message: Any) -> None:
            said.extend(message.get("body", b""))
            await send(message)

        await self.app(scope, hear, say)
        self.asked.append(bytes(asked))
        self.said.append(bytes(said))


def server() -> Any:
    made: Any = importlib.import_module("fastmcp").FastMCP("own")
    made.add_extension(importlib.import_module("fastmcp_tasks").TasksExtension())

    @made.tool(task=True)
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return f"slept {seconds}"

    return made.http_app()


async def main(directory: Path) -> None:
    spied = Spied(server())
    app = PersistMiddleware(spied, url=str(directory / "events.db"), tasks_after=0.1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning")
        running = uvicorn.Server(config)
        task = asyncio.create_task(running.serve(sockets=[listener]))
        while not running.started:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(compare(spied, TaskClient(listener.getsockname()[1])), 30)
        running.should_exit = True
        await task


async def compare(spied: Spied, client: TaskClient) -> None:
    async def ask(method: str, params: dict[str, Any]) -> Any:
        response = await client.post(method, params)
        body = await response.body()
        response.close()
        assert not response.is_stream
        assert body in spied.said, (method, body, spied.said)
        return json.loads(body)

    found = await ask("server/discover", {})
    assert TASKS in found["result"]["capabilities"]["extensions"]
    begun = (await ask("tools/call", {"name": "slow", "arguments": {"seconds": 0.5}}))["result"]
    assert begun["resultType"] == "task", begun
    while True:
        got = (await ask("tasks/get", {"taskId": begun["taskId"]}))["result"]
        if got["status"] != "working":
            break
        await asyncio.sleep(0.1)
    assert got["status"] == "completed"
    assert got["result"]["content"][0]["text"] == "slept 0.5"
    # Each was asked as its client asked it, and once; a question of ours is one that it answers.
    methods = [json.loads(body)["method"] for body in spied.asked if body]
    assert methods.count("tools/call") == 1, methods
    print(methods)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
