"""The third act: two worker processes on one file behind a round-robin proxy without stickiness.

Resumes and answers of the client land on the worker that does not run its call; then the worker
that holds the session is killed in the middle of a call, and the other one goes on with it.
"""

import asyncio
import contextlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

from mcp import types
from mcp.shared.exceptions import MCPError
from rich.console import Console
from rich.table import Table

from mcp_persist_middleware.ops.demo_parts import CallTool, DemoServer, handshake_client, running
from mcp_persist_middleware.supervision import scoped
from mcp_persist_middleware.testing import Cut, FaultProxy, Plan, ProxiedExchange, ProxiedRequest

_CALLS, _STEPS, _PACE = 4, 5, 0.05
_QUESTIONS = 2
_LONG, _LONG_PACE, _BEFORE = 1000, 0.1, 3
_RETRY_MS = 500
_PATIENCE = 12.0
_INTERRUPTED = "Interrupted"
_NAME = "Ann"


@dataclass(slots=True)
class Observation:
    """One thing that happened: on which workers, and what the client saw of it."""

    what: str
    workers: str = ""
    seen: str = ""
    right: bool = False


@dataclass(slots=True)
class Balance:
    """The way of every request: to the two workers in turn, cut where it is a call to be cut."""

    ports: list[int]
    cuts: bool = True
    _turn: "itertools.count[int]" = field(default_factory=itertools.count)

    def route(self, _: ProxiedRequest) -> list[int]:
        """The next worker in turn; the other one when it does not answer."""
        first = next(self._turn) % len(self.ports)
        return self.ports[first:] + self.ports[:first]

    def policy(self, request: ProxiedRequest) -> Plan | None:
        """Cut a call after its first event."""
        is_call = request.rpc_method == "tools/call"
        return Plan(cut=Cut(events=1)) if self.cuts and is_call else None

    def note(
        self, line: Observation, pairs: list[tuple[ProxiedExchange, ProxiedExchange | None]]
    ) -> bool:
        """Name the workers of requests that belong together; whether any two differ."""
        names = [self.name(one) + (f"→{self.name(two)}" if two else "") for one, two in pairs]
        line.workers = " ".join(names)
        return any(name[0] != name[-1] for name in names)

    def name(self, exchange: ProxiedExchange) -> str:
        """Which worker had a request."""
        return "AB"[self.ports.index(exchange.target)]


async def play(console: Console, directory: Path) -> bool:
    """Play the act; whether the middleware kept its word."""
    console.print(
        "Two processes serve one SQLite file; each request goes to the next one in turn.\n"
        "A ClientSession (2025-11-25) makes calls, which are cut, and answers questions;\n"
        "then the worker that holds its session is killed (SIGKILL).",
        highlight=False,
    )
    url = f"sqlite+aiosqlite:///{(directory / 'workers.db').as_posix()}"
    bare, lines = await asyncio.gather(_bare(), _persisted(url))
    table = Table("middleware, what happens", "workers", "What the client sees")
    for line in [bare, *lines]:
        colour = "green" if line.right else "red"
        table.add_row(
            line.what, line.workers, f"[{colour}]{line.seen}[/]", end_section=line is bare
        )
    console.print(table)
    return all(line.right for line in lines)


async def _bare() -> Observation:
    """What becomes of the first call without the middleware."""
    line = Observation("without, a call")
    async with running(DemoServer()) as one, running(DemoServer()) as two:
        balance = Balance([one.port, two.port], cuts=False)
        async with FaultProxy(route=balance.route) as proxy:
            try:
                async with handshake_client(f"http://127.0.0.1:{proxy.port}/mcp") as call_tool:
                    line.seen = await _call(call_tool, "count", steps=_STEPS, seconds=_PACE)
            except* (MCPError, OSError) as errors:
                line.seen = str(_first(errors))
            calls = [e for e in proxy.exchanges if e.target]
            line.workers = " ".join(balance.name(exchange) for exchange in calls[:3])
    return line


def _first(errors: BaseExceptionGroup) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _persisted(url: str) -> list[Observation]:
    async with (
        running(DemoServer(url, _RETRY_MS)) as one,
        running(DemoServer(url, _RETRY_MS)) as two,
    ):
        balance = Balance([one.port, two.port])
        async with FaultProxy(policy=balance.policy, route=balance.route) as proxy:
            endpoint = f"http://127.0.0.1:{proxy.port}/mcp"
            lines: list[Observation] = []
            try:
                async with handshake_client(endpoint, _answer) as call_tool:
                    lines.append(await _cut_calls(proxy, balance, call_tool))
                    lines.append(await _question(proxy, balance, call_tool))
                    # The worker that had `initialize` holds the session.
                    home = proxy.exchanges[0].target
                    victim = one if home == one.port else two
                    lines += await _killed(balance, home, victim, call_tool)
            except* (MCPError, OSError) as errors:
                lines.append(Observation("with, the client ends", seen=str(_first(errors))))
    return lines


async def _cut_calls(proxy: FaultProxy, balance: Balance, call_tool: CallTool) -> Observation:
    """Calls whose resumes land on the other worker."""
    line, before, counts = Observation(f"with, {_CALLS} calls, each cut"), len(proxy.exchanges), 0
    right = True
    for _ in range(_CALLS):
        progress = _Progress()
        result = await _call(call_tool, "count", progress, steps=_STEPS, seconds=_PACE)
        with contextlib.suppress(TimeoutError):
            await progress.wait_for(_STEPS)
        right &= progress.seen == list(range(1, _STEPS + 1)) and result == f"counted {_STEPS}"
        counts += len(progress.seen)
    since = proxy.exchanges[before:]
    calls = [each for each in since if each.request.rpc_method == "tools/call"]
    resumes = {each.request.headers.get("last-event-id"): each for each in since}
    crossed = balance.note(line, [(call, resumes.get(call.last_id)) for call in calls])
    line.seen = f"{counts}/{_CALLS * _STEPS} progress, {_CALLS} results" if right else "events lost"
    line.right = right and crossed and all(call.cut for call in calls)
    return line


async def _question(proxy: FaultProxy, balance: Balance, call_tool: CallTool) -> Observation:
    """Questions that a tool asks in the middle, answered through the other worker."""
    line, before = Observation(f"with, {_QUESTIONS} questions, answered"), len(proxy.exchanges)
    balance.cuts = False
    greetings = [await _call(call_tool, "greet") for _ in range(_QUESTIONS)]
    line.seen = ", ".join(greetings)
    since = proxy.exchanges[before:]
    asked = [each for each in since if each.request.rpc_method == "tools/call"]
    answered = [each for each in since if _is_answer(each.request)]
    crossed = balance.note(line, list(zip(asked, answered, strict=False)))
    line.right = greetings == [f"hello {_NAME}"] * _QUESTIONS and crossed
    return line


async def _killed(
    balance: Balance, home: int, victim: DemoServer, call_tool: CallTool
) -> list[Observation]:
    """A call whose worker dies, and one after it."""
    name = "AB"[balance.ports.index(home)]
    line = Observation(f"with, a call, {name} is killed", workers=name)
    progress = _Progress()
    counting = _call(call_tool, "count", progress, steps=_LONG, seconds=_LONG_PACE)
    with scoped(counting, "demo-call") as call:
        await progress.wait_for(_BEFORE)
        await victim.kill()
        line.seen = await call
    line.right = line.seen.startswith(_INTERRUPTED) and progress.is_gap_free
    after = Observation("with, the next call", workers="B" if name == "A" else "A")
    after.seen = await _call(call_tool, "count", steps=_STEPS, seconds=_PACE)
    after.right = after.seen == f"counted {_STEPS}"
    return [line, after]


class _Progress:
    """What a call has reported."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._changed = asyncio.Event()

    async def __call__(self, value: float, _total: float | None, _message: str | None) -> None:
        self.seen.append(int(value))
        self._changed.set()

    @property
    def is_gap_free(self) -> bool:
        return self.seen == list(range(1, len(self.seen) + 1))

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(_PATIENCE):
            while len(self.seen) < count:
                self._changed.clear()
                await self._changed.wait()


async def _call(
    call_tool: CallTool, name: str, progress: _Progress | None = None, /, **arguments: object
) -> str:
    """What became of a call, in words."""
    try:
        result = await asyncio.wait_for(
            call_tool(name, arguments, progress_callback=progress), _PATIENCE
        )
    except TimeoutError:
        return f"no answer in {_PATIENCE:.0f} s"
    except MCPError as error:
        return str(error)
    return str(result.content[0].text)


async def _answer(_context: object, _params: object) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"name": _NAME})


def _is_answer(request: ProxiedRequest) -> bool:
    """Whether this is the client's answer to a question of the server."""
    with contextlib.suppress(ValueError):
        message = json.loads(request.body)
        return isinstance(message, dict) and "method" not in message and "result" in message
    return False
