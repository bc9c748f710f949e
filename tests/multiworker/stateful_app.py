"""Workers whose sessions have state in memory, on the store that `TEST_SETTINGS` names."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from starlette.requests import HTTPConnection

from mcp_persist_middleware import PersistMiddleware
from tests.support import stores
from tests.support.processes import ServerProcess, running
from tests.support.stateful import Message, Receive, Send, State, Stateful, _event, _json
from tests.support.stores import Store

_true, _true_ns = time.time, time.time_ns


class Witness(Stateful):
    """`Stateful`, and: `pause` reports progress and waits to be cancelled; `work` notes in the
    server's log that it runs; `steps` notes by whom, and reports progress; `plain` answers
    without a stream, `stuck` never; `set clock` sets the
    wall clock of its process; credentials "nobody" and "busy" are refused."""

    def __init__(self) -> None:
        super().__init__()
        self.paused: dict[int, asyncio.Event] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", []))
        if headers.get(b"mcp-protocol-version") == b"2026-07-28":
            # There are no sessions then: everybody shares one state.
            self.sessions.setdefault("", State())
        match headers.get(b"authorization"):
            case b"nobody":
                await _json(send, 401, {"error": "who?"}, (b"www-authenticate", b"Bearer"))
            case b"busy":
                await _json(send, 503, {"error": "later"}, (b"retry-after", b"77"))
            case _:
                await super().__call__(scope, receive, send)

    async def _message(self, state: State, message: Message, scope: Message, send: Send) -> None:
        if message.get("method") == "notifications/cancelled":
            # One that is not known here is no error: probes are made of these.
            self.paused.get(message["params"]["requestId"], asyncio.Event()).set()
        await super()._message(state, message, scope, send)

    async def _call(self, state: State, message: Message, scope: Message, send: Send) -> None:
        arguments = message["params"].get("arguments", {})
        match message["params"]["name"]:
            case "pause":
                await self._pause(message, send)
            case "work":
                print(f"work {arguments['n']}", file=sys.stderr, flush=True)
                await super()._call(state, message, scope, send)
            case "steps":
                await self._steps(state, message, scope, send)
            case "stuck":
                print("stuck", file=sys.stderr, flush=True)
                await asyncio.Event().wait()
            case "set clock":
                await self._set_clock(message, send)
            case "plain":
                state.calls += 1
                value = {"value": state.calls, "size": arguments["size"] * "x"}
                await _json(send, 200, {"jsonrpc": "2.0", "id": message["id"], "result": value})
            case _:
                await super()._call(state, message, scope, send)

    async def _steps(self, state: State, message: Message, scope: Message, send: Send) -> None:
        headers, arguments = dict(scope["headers"]), message["params"]["arguments"]
        state.calls += 1
        caller = headers.get(b"authorization", b"nobody").decode()
        print(f"steps {arguments['name']} by {caller}", file=sys.stderr, flush=True)
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for value in range(1, arguments["n"] + 1):
            # Who has read two may want it to run on for a while.
            later = arguments.get("later", arguments["delay"])
            await asyncio.sleep(arguments["delay"] if value <= 2 else later)
            params = {"progressToken": "p", "progress": value}
            await _event(send, {"method": "notifications/progress", "params": params})
        await _event(send, {"id": message["id"], "result": {"value": arguments["n"]}})
        await send({"type": "http.response.body", "body": b""})

    async def _set_clock(self, message: Message, send: Send) -> None:
        by = message["params"]["arguments"]["by"]
        time.time, time.time_ns = lambda: _true() + by, lambda: _true_ns() + int(by * 1e9)
        await _json(send, 200, {"jsonrpc": "2.0", "id": message["id"], "result": {"value": by}})

    async def _pause(self, message: Message, send: Send) -> None:
        cancelled = self.paused[message["id"]] = asyncio.Event()
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        progress = {"progressToken": "p", "progress": 1}
        await _event(send, {"method": "notifications/progress", "params": progress})
        print("paused", file=sys.stderr, flush=True)
        await cancelled.wait()
        await _event(send, {"id": message["id"], "result": {"value": "cancelled"}})
        await send({"type": "http.response.body", "body": b""})


def tenant(connection: HTTPConnection) -> str:
    """A namespace for each tenant."""
    return connection.headers["x-tenant"]


def app() -> PersistMiddleware:
    """One worker's application."""
    given = json.loads(os.environ.get("TEST_SETTINGS", "{}"))
    if given.get("namespace") == "by tenant":
        given["namespace"] = tenant
    if (names := given.pop("rerun", None)) is not None:
        given["rerun"] = lambda _, request: request["params"]["arguments"]["name"] in names
    return PersistMiddleware(Witness(), **given)


def worker(
    directory: Path, name: str, *, store: Store | None = None, **settings: object
) -> ServerProcess:
    """One worker, not started; without a store it is on a file in the directory."""
    on = (store or stores.sqlite(directory, str)).settings
    environ = {"TEST_SETTINGS": json.dumps({**on, **settings})}
    module = "tests.multiworker.stateful_app:app()"
    return ServerProcess(module, directory / f"{name}.log", environ=environ)


@asynccontextmanager
async def workers(
    directory: Path, count: int = 2, *, store: Store | None = None, **settings: object
) -> AsyncIterator[list[ServerProcess]]:
    """Workers on one store; they know of each other."""
    made = [worker(directory, f"worker{n}", store=store, **settings) for n in range(count)]
    async with AsyncExitStack() as stack:
        for each in made:
            await stack.enter_async_context(running(each))
        yield made
