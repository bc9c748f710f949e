"""The server of `tests.peers.killed_tasks`: what each tool does is written down where a kill does
not reach it, and it can be told to die at an instant that matters.

`KILLED_DIRECTORY` has the file of what was run and, while one is armed, that with the name of an
instant; `KILLED_URL` is the store. `MCP_PERSIST_*` are the settings of the middleware.
"""

import asyncio
import os
import signal
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.stores.postgres.log import PostgresLog
from mcp_persist_middleware.stores.sql.jobs import SqlJobs
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.tasks import service, state
from mcp_persist_middleware.tasks.core_result import TaskResult
from tests.support.scripted import Call, Scripted

DIRECTORY = Path(os.environ.get("KILLED_DIRECTORY", "."))
ARMED = DIRECTORY / "armed"
INSTANTS = ("created", "changed", "committing", "committed", "ending", "looked", "moved", "telling")


def die_if(instant: str) -> None:
    """Die here, if that is armed: of two workers, one does."""
    if ARMED.exists() and ARMED.read_text() == instant:
        try:
            ARMED.unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def _dies(
    owner: Any, name: str, instant: str, *, before: bool, when: Callable[[Any], bool] | None = None
) -> None:
    made: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def dies(*given: Any, **more: Any) -> Any:
        is_meant = when is None or when(given)
        if instant == "telling":
            await _written(given[0]._context)
        if before and is_meant:
            die_if(instant)
        done = await made(*given, **more)
        if not before and is_meant:
            die_if(instant)
        return done

    setattr(owner, name, dies)


async def _written(context: Context) -> None:
    while not all(stream.created for stream in context.writer.live.values()):
        await asyncio.sleep(0.01)


def _is_result(given: Any) -> bool:
    return any(b'"text": "run ' in e.frame for write in given[1] for e in write.events)


def _is_takeover(given: Any) -> bool:
    return any(write.takes_over and write.ending for write in given[1])


def install() -> None:
    """The instants: a job is in the store and its id is not told; its result is there and is not,
    or is, in the store; somebody ends what another has left; a task was looked at and that is not
    told; a job goes on with its client's answers, and its call has not begun; a `tasks/result` has
    its stream, and says nothing in it yet."""
    _dies(SqlJobs, "create", "created", before=False)
    _dies(SqlJobs, "change", "changed", before=False)
    for log in (SqliteLog, PostgresLog):
        _dies(log, "append", "committing", before=True, when=_is_result)
        _dies(log, "append", "committed", before=False, when=_is_result)
        _dies(log, "append", "ending", before=True, when=_is_takeover)
    _dies(state, "look", "looked", before=False)
    _dies(service.creation, "move", "moved", before=False)
    _dies(TaskResult, "_tell", "telling", before=True)


class Server(Scripted):
    """`work` answers after a while, as an event stream or as JSON; `ask` asks its client first.

    Args:
        runs: the file in which each run of a call is noted.
    """

    def __init__(self, runs: Path) -> None:
        super().__init__(work=self._work, ask=self._ask)
        self._runs = runs

    async def _answer(self, call: Call) -> None:
        match call.request:
            case {"method": "initialize", "id": number, "params": {"protocolVersion": version}}:
                await call.head((b"mcp-session-id", uuid.uuid4().hex.encode()))
                told = {"protocolVersion": version, "capabilities": {"tools": {}}}
                await call.emit({"id": number, "result": {**told, "serverInfo": {}}})
                await call.end()
            case {"method": "tools/list", "id": number}:
                tool = {"name": "work", "inputSchema": {"type": "object"}}
                told = {"jsonrpc": "2.0", "id": number, "result": {"tools": [tool]}}
                await call.json(200, told)
            case _:
                await super()._answer(call)

    async def _work(self, call: Call) -> None:
        arguments = call.request["params"]["arguments"]
        with self._runs.open("a") as file:
            file.write(f"{arguments['name']} {os.getpid()}\n")
        if arguments["as_json"]:
            await asyncio.sleep(arguments["seconds"])
            content = {"content": [{"type": "text", "text": f"run {arguments['name']}"}]}
            await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": content})
            return
        await call.head()
        for step in range(4):
            await call.progress(step, f"step {step}")
            await asyncio.sleep(arguments["seconds"] / 4)
        await call.result(f"run {arguments['name']}")

    async def _ask(self, call: Call) -> None:
        params = call.request["params"]
        if "inputResponses" in params:
            await self._work(call)
            return
        await call.head()
        await asyncio.sleep(params["arguments"]["seconds"])
        asked = {"who": {"method": "elicitation/create", "params": {}}}
        result = {"resultType": "input_required", "inputRequests": asked}
        await call.emit({"id": call.request["id"], "result": result})
        await call.end()


def app() -> PersistMiddleware:
    """The server behind the middleware."""
    install()
    return PersistMiddleware(Server(DIRECTORY / "runs"), url=os.environ["KILLED_URL"])
