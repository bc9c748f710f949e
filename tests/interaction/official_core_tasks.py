"""The official client of SDK 1.x, its experimental tasks, and a server of the same SDK behind the
middleware that never heard of tasks. Run in an environment of SDK 1.x: exits 0 when all is as it
should be.

    python -m tests.interaction.official_core_tasks DIRECTORY [own]

With `own` the server has the SDK's own tasks, and is seen to be left alone.
"""

import asyncio
import importlib
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from mcp_persist_middleware import PersistMiddleware

sdk: Any = importlib.import_module("mcp")
types: Any = importlib.import_module("mcp.types")
fastmcp: Any = importlib.import_module("mcp.server.fastmcp")
lowlevel: Any = importlib.import_module("mcp.server.lowlevel")
manager: Any = importlib.import_module("mcp.server.streamable_http_manager")
http: Any = importlib.import_module("mcp.client.streamable_http")


def plain() -> Any:
    """A server without a word of tasks."""
    server = fastmcp.FastMCP("plain", log_level="WARNING")
    schema: Any = importlib.import_module("pydantic").create_model("Name", name=(str, ...))

    async def count(n: int, ctx: Any) -> str:
        for step in range(n):
            await ctx.report_progress(step + 1, n, f"step {step + 1}")
            await asyncio.sleep(0.1)
        return f"counted {n}"

    async def ask(ctx: Any) -> str:
        answer = await ctx.elicit("who?", schema)
        return f"hello {answer.data.name}"

    for tool in (count, ask):
        tool.__annotations__["ctx"] = fastmcp.Context
        server.tool()(tool)
    return server.streamable_http_app()


def own() -> Any:
    """One with the SDK's own tasks."""
    server = lowlevel.Server("own")
    server.experimental.enable_tasks()

    @server.list_tools()
    async def tools() -> Any:
        execution = types.ToolExecution(taskSupport="required")
        return [types.Tool(name="count", inputSchema={"type": "object"}, execution=execution)]

    @server.call_tool()
    async def call(name: str, arguments: Any) -> Any:
        async def work(_: Any) -> Any:
            text = types.TextContent(type="text", text=f"its own {name}")
            return types.CallToolResult(content=[text])

        return await server.request_context.experimental.run_task(work)

    sessions = manager.StreamableHTTPSessionManager(server)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            async with sessions.run():
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await sessions.handle_request(scope, receive, send)

    return app


@asynccontextmanager
async def serving(app: Any) -> Any:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        server.should_exit = True
        await task


@asynccontextmanager
async def connected(url: str) -> Any:
    async def answer(_: Any, __: Any) -> Any:
        return types.ElicitResult(action="accept", content={"name": "ann"})

    async with (
        http.streamable_http_client(url) as (read, write, _),
        sdk.ClientSession(read, write, elicitation_callback=answer) as session,
    ):
        session.greeting = await session.initialize()
        yield session


def said(result: Any) -> str:
    return str(result.content[0].text)


async def with_ours(session: Any) -> None:
    tasks = session.experimental
    assert session.greeting.capabilities.tasks.requests.tools.call is not None
    tools = (await session.list_tools()).tools
    assert {tool.execution.taskSupport for tool in tools} == {"optional"}
    begun = await tasks.call_tool_as_task("count", {"n": 8}, ttl=60_000)
    assert begun.task.status == "working"
    states = [each.status async for each in tasks.poll_task(begun.task.taskId)]
    assert states[-1] == "completed", states
    result = await tasks.get_task_result(begun.task.taskId, types.CallToolResult)
    assert said(result) == "counted 8"
    assert result.meta["io.modelcontextprotocol/related-task"] == {"taskId": begun.task.taskId}
    asked = await tasks.call_tool_as_task("ask", {})
    async for each in tasks.poll_task(asked.task.taskId):
        if each.status == "input_required":
            break
    result = await tasks.get_task_result(asked.task.taskId, types.CallToolResult)
    assert said(result) == "hello ann"
    long = await tasks.call_tool_as_task("count", {"n": 1000})
    assert (await tasks.cancel_task(long.task.taskId)).status == "cancelled"
    listed = {each.taskId: each.status for each in (await tasks.list_tasks()).tasks}
    assert listed == {
        begun.task.taskId: "completed",
        asked.task.taskId: "completed",
        long.task.taskId: "cancelled",
    }
    assert said(await session.call_tool("count", {"n": 1})) == "counted 1"


async def with_its_own(session: Any) -> None:
    begun = await session.experimental.call_tool_as_task("count", {})
    async for each in session.experimental.poll_task(begun.task.taskId):
        state = each.status
    assert state == "completed"
    result = await session.experimental.get_task_result(begun.task.taskId, types.CallToolResult)
    assert said(result) == "its own count"


async def main(directory: Path, *which: str) -> None:
    made, check = (own, with_its_own) if which else (plain, with_ours)
    app = PersistMiddleware(made(), url=str(directory / "events.db"))
    async with serving(app) as url, connected(url) as session:
        await asyncio.wait_for(check(session), 40)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
