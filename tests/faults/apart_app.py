"""Workers whose tool ticks at an even pace and says when, for `tests.faults.apart`."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mcp_persist_middleware import PersistMiddleware
from tests.support.processes import ServerProcess
from tests.support.stateful import Message, Send, State, Stateful, _event


class Ticking(Stateful):
    """`Stateful`, and: `tick` reports progress `n` times with the time in nanoseconds as its
    message, `rate` in a second, and notes in the server's log when it starts and ends."""

    async def _call(self, state: State, message: Message, scope: Message, send: Send) -> None:
        if message["params"]["name"] != "tick":
            await super()._call(state, message, scope, send)
            return
        arguments = message["params"]["arguments"]
        name = arguments["name"]
        _note(f"tick {name} started")
        try:
            await _tick(message["id"], send, **arguments)
        except asyncio.CancelledError:
            _note(f"tick {name} cancelled")
            raise
        _note(f"tick {name} finished")


async def _tick(number: Any, send: Send, name: str, n: int, rate: float) -> None:
    head = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    due = time.monotonic()
    for value in range(1, n + 1):
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        params = {"progressToken": "p", "progress": value, "message": str(time.monotonic_ns())}
        await _event(send, {"method": "notifications/progress", "params": params})
    await _event(send, {"id": number, "result": {"value": name}})
    await send({"type": "http.response.body", "body": b""})


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def app() -> PersistMiddleware:
    """One worker's application."""
    return PersistMiddleware(Ticking(), **json.loads(os.environ["TEST_SETTINGS"]))


def worker(directory: Path, name: str, settings: dict[str, Any]) -> ServerProcess:
    """One worker, not started."""
    environ = {"TEST_SETTINGS": json.dumps({"resume_rotate": None, **settings})}
    module = "tests.faults.apart_app:app()"
    return ServerProcess(module, directory / f"{name}.log", environ=environ)
