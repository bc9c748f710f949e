"""The clients of `tests.peers.mixed`: the official Python SDK 2.x in a handshake session."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client

# What a client does, and how often of a hundred times.
MIX = {"work": 45, "ask": 20, "sample": 15, "wait": 10, "tell": 10}
_TIMEOUT = 60.0
_SETTLE = 2.0
_AT_ONCE = 3


@dataclass(slots=True)
class Made:
    """One call, and what its client saw of it."""

    nonce: str
    tool: str
    expected: int
    """How many progress notifications it reports."""
    delay: float = 0.02
    """Before each of them, in seconds."""
    progress: list[int] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def faults(self) -> list[str]:
        """What is wrong with what was seen, in words."""
        name = f"{self.tool} {self.nonce}"
        if self.error:
            return [f"{name}: {self.error}"]
        found = []
        if self.progress != list(range(1, self.expected + 1)):
            found.append(f"{name}: progress {self.progress} of {self.expected}")
        if self.tool != "wait" and self.told.get("nonce") != self.nonce:
            found.append(f"{name}: answered {self.told}")
        if self.tool in ("ask", "sample") and self.told.get("answer") != self.nonce:
            found.append(f"{name}: its question was answered {self.told.get('answer')!r}")
        return found


async def _elicited(_: Any, params: Any) -> types.ElicitResult:
    nonce = params.message.rpartition(" ")[2]
    return types.ElicitResult(action="accept", content={"nonce": nonce})


async def _sampled(_: Any, params: Any) -> types.CreateMessageResult:
    content = params.messages[0].content
    text = types.TextContent(type="text", text=content.text)
    return types.CreateMessageResult(role="assistant", content=text, model="none")


def plan(name: str, calls: int, chance: random.Random) -> list[Made]:
    """The calls of one client, in their order."""
    tools = chance.choices(list(MIX), list(MIX.values()), k=calls)
    steps = {"work": (3, 12), "ask": (2, 6), "sample": (2, 6), "wait": (1, 1), "tell": (0, 0)}
    return [
        Made(f"{name}-{number}", tool, chance.randint(*steps[tool]))
        for number, tool in enumerate(tools)
    ]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[ClientSession]:
    """A session that answers what it is asked; the server keeps it when this block ends."""
    async with (
        # What a session that is deleted leaves in the store could not be looked at.
        streamable_http_client(url, terminate_on_close=False) as (read, write),
        ClientSession(
            read, write, _TIMEOUT, sampling_callback=_sampled, elicitation_callback=_elicited
        ) as session,
    ):
        await session.initialize()
        yield session


async def run(url: str, name: str, calls: int, seed: int) -> list[Made]:
    """One client makes its calls, a few at a time; the last one is alone."""
    made = plan(name, calls, random.Random(f"{seed} {name}"))
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(each: Made) -> None:
        async with gate:
            await call(session, each)

    async with connected(url) as session:
        await asyncio.gather(*map(one, made))
        last = Made(f"{name}-last", "tell", 0)
        await call(session, last)
    return [*made, last]


async def run_typescript(url: str, script: Path, name: str, calls: int, seed: int) -> list[Made]:
    """The same with an official TypeScript client, in a process of its own."""
    made = [*plan(name, calls, random.Random(f"{seed} {name}")), Made(f"{name}-last", "tell", 0)]
    process = await asyncio.create_subprocess_exec(
        *("node", str(script), url, "legacy"),
        env=os.environ | {"STORY": "mixed"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    given = json.dumps([asdict(each) for each in made]).encode() + b"\n"
    try:
        output, errors = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
    seen = {line["nonce"]: line for line in map(json.loads, output.splitlines())}
    lost = errors.decode().strip()[-200:] or "the client ended before it"
    for each in made:
        line = seen.get(each.nonce, {"progress": [], "told": {}, "error": lost})
        each.progress, each.told, each.error = line["progress"], line["told"], line["error"]
    return made


async def call(session: ClientSession, made: Made) -> None:
    """Make one call, to its end."""
    changed = asyncio.Event()

    async def progress(value: float, _total: float | None, _message: str | None) -> None:
        made.progress.append(int(value))
        changed.set()

    async def complete() -> None:
        while len(made.progress) < made.expected:
            changed.clear()
            await changed.wait()

    arguments: dict[str, Any] = {"nonce": made.nonce}
    if made.tool in ("work", "ask", "sample"):
        arguments["n"] = made.expected
    if made.tool == "work":
        arguments["delay"] = made.delay
    calling = asyncio.create_task(
        session.call_tool(made.tool, arguments, progress_callback=progress)
    )
    try:
        if made.tool == "wait":
            await asyncio.wait_for(complete(), _TIMEOUT)
            calling.cancel()
            await asyncio.wait([calling])
            return
        result: Any = await calling
        made.told = json.loads(result.content[0].text)
        # The client runs callbacks in tasks; those of a finished call may still wait.
        await asyncio.wait_for(complete(), _SETTLE)
    except TimeoutError:
        made.error = "" if made.told else "no end in time"
    except Exception as error:
        made.error = f"{type(error).__name__}: {error}"
    finally:
        calling.cancel()
