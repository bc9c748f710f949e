"""The clients of the matrix; runs in each of its environments, so it imports an SDK only in use.

`python -m tests.matrix.clients NAME URL CALLS EVENTS DELAY AT_ONCE TOOL` prints the outcomes as
JSON.
"""

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

CALL_TIMEOUT = 60.0
_SETTLE = 2.0

Progress = Callable[[float, float | None, str | None], Awaitable[None]]
CallTool = Callable[[str, dict[str, Any], Progress], Awaitable[Any]]
Connect = Callable[[str], AbstractAsyncContextManager[CallTool]]


@dataclass(slots=True)
class Outcome:
    """What one client saw of one call: each progress event as it came, and the answer."""

    progress: list[int] = field(default_factory=list)
    result: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """How many calls of what length, and how many of them at a time."""

    calls: int
    events: int
    delay: float
    at_once: int = 10
    tool: str = "count"

    @property
    def arguments(self) -> dict[str, Any]:
        """What the tool is given."""
        if self.tool == "count":
            return {"n": self.events, "delay": self.delay}
        return {"duration": self._duration, "steps": self.events}

    @property
    def result(self) -> str:
        """What the tool has to answer."""
        if self.tool == "count":
            return f"counted {self.events}"
        took = f"Duration: {self._duration:g} seconds, Steps: {self.events}."
        return f"Long running operation completed. {took}"

    @property
    def _duration(self) -> float:
        return round(self.events * self.delay, 3)


@asynccontextmanager
async def _sdk2_default(url: str) -> AsyncIterator[CallTool]:
    mcp: Any = importlib.import_module("mcp")
    async with mcp.Client(url, read_timeout_seconds=CALL_TIMEOUT) as client:
        yield lambda name, given, seen: client.call_tool(name, given, progress_callback=seen)


@asynccontextmanager
async def _handshake(url: str) -> AsyncIterator[CallTool]:
    """`ClientSession` over the transport, in either SDK."""
    mcp: Any = importlib.import_module("mcp")
    transport: Any = importlib.import_module("mcp.client.streamable_http")
    modern = hasattr(mcp, "Client")
    timeout = CALL_TIMEOUT if modern else timedelta(seconds=CALL_TIMEOUT)
    async with (
        transport.streamable_http_client(url) as (read, write, *_),
        mcp.ClientSession(read, write, read_timeout_seconds=timeout) as session,
    ):
        await session.initialize()
        yield lambda name, given, seen: session.call_tool(name, given, progress_callback=seen)


@asynccontextmanager
async def _fastmcp(url: str) -> AsyncIterator[CallTool]:
    fastmcp: Any = importlib.import_module("fastmcp")
    async with fastmcp.Client(url, timeout=CALL_TIMEOUT) as client:
        yield lambda name, given, seen: client.call_tool(name, given, progress_handler=seen)


CLIENTS: dict[str, Connect] = {
    "mcp.Client 2.x": _sdk2_default,
    "ClientSession 2.x": _handshake,
    "ClientSession 1.x": _handshake,
    "fastmcp.Client": _fastmcp,
}


async def _call(call_tool: CallTool, work: Work, gate: asyncio.Semaphore) -> Outcome:
    outcome, complete = Outcome(), asyncio.Event()

    async def progress(value: float, _total: float | None, _message: str | None) -> None:
        outcome.progress.append(int(value))
        if len(outcome.progress) >= work.events:
            complete.set()

    async with gate:
        try:
            result = await call_tool(work.tool, work.arguments, progress)
            outcome.result = result.content[0].text
            # Clients may run callbacks in tasks; those of a finished call may still wait.
            with suppress(TimeoutError):
                await asyncio.wait_for(complete.wait(), _SETTLE)
        except Exception as error:
            outcome.error = f"{type(error).__name__}: {error}"
    return outcome


async def run(name: str, url: str, work: Work) -> list[Outcome]:
    """Make all calls with one client."""
    gate = asyncio.Semaphore(work.at_once)
    async with CLIENTS[name](url) as call_tool:
        tasks = [asyncio.create_task(_call(call_tool, work, gate)) for _ in range(work.calls)]
        return await asyncio.gather(*tasks)


def main() -> None:
    name, url, calls, events, delay, at_once, tool = sys.argv[1:]
    work = Work(int(calls), int(events), float(delay), int(at_once), tool)
    outcomes = asyncio.run(run(name, url, work))
    print(json.dumps([asdict(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    main()
