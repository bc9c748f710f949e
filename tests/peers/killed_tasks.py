"""Kills workers with -9 while clients have tasks, keyed calls and calls that are handed back on two
of them: at random moments, and at the instants that matter (`killed_tasks_app.INSTANTS`).

Of each call is known how often it was run and in which process, what its client was told, and how
it ended for whoever asks for it, at either worker.

Run:     python -m tests.peers.killed_tasks [--kills 100] [--calls 12] [--seed N] [--store NAME …]
Expect:  of each store a line in which nothing was run twice, hangs, is unknown or ends in two ways,
         nothing has failed whose worker lives, and exit code 0.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.peers import killed_tasks_app
from tests.support.forks import Forks
from tests.support.processes import ServerProcess, running
from tests.support.session import HANDSHAKE, MODERN, RawSession
from tests.support.sse_client import Response
from tests.support.started import each_started
from tests.support.stores import Store
from tests.support.task_client import TaskClient

STORES = ("sqlite", "postgres", "sqlite+redis", "postgres+redis")
FACES = ("extension", "asking", "core", "key", "hand_back")
_SETTINGS: dict[str, object] = {
    "tasks_after": 0.05,
    "hand_back": 0.4,
    "idempotency": True,
    "lease_seconds": 3,
    "store_timeout": 2,
}
_BROKEN = (OSError, asyncio.IncompleteReadError, TimeoutError, EOFError)
# A task of a worker that was killed ends within its lease, seen at the next poll; a machine that
# starts servers meanwhile is slow.
_HANGS = 20.0


@dataclass(slots=True)
class Call:
    """One call, and what is known of it."""

    name: str
    face: str
    who: dict[str, str]
    arguments: dict[str, Any]
    task: str = ""
    session: RawSession | None = None
    end: str = ""
    """`done`, or the error that it ended with."""
    ended_after: float = 0.0
    """Seconds since its client first asked for its end."""
    allowed: int = 1
    """So often it may have run: for a client that was told nothing to go by, once each time."""
    faults: list[str] = field(default_factory=list)

    @property
    def is_told(self) -> bool:
        """Whether somebody waits for its end."""
        return bool(self.task) or self.face in ("key", "hand_back")


class Hunt:
    """The workers, their clients, and what those have seen."""

    def __init__(
        self, workers: list[ServerProcess], directory: Path, chance: random.Random
    ) -> None:
        self._workers = workers
        self._armed, self._runs = directory / "armed", directory / "runs"
        self._chance = chance
        self._numbers = itertools.count()
        self.calls: list[Call] = []
        self.faults: Counter[str] = Counter()
        self.instants: Counter[str] = Counter()
        self.slowest = 0.0

    def _port(self) -> int:
        return self._chance.choice(self._workers).port

    async def round(self, calls: int) -> None:
        """Calls, a kill in the midst of them, a restart; then each has to end."""
        made = [self._new() for _ in range(calls)]
        under_way = [asyncio.create_task(self._live(call)) for call in made]
        victims = await self._kill()
        dead = {victim.pid for victim in victims}
        await asyncio.gather(*under_way, *[self._restart(victim) for victim in victims])
        await asyncio.gather(*[self._again(call) for call in made])
        self._judge(made, dead)

    def _new(self) -> Call:
        chance, name = self._chance, f"c{next(self._numbers)}"
        who = {"authorization": f"Bearer client-{chance.randrange(4)}"}
        seconds = chance.uniform(0.1, 1.2)
        arguments = {"name": name, "seconds": seconds, "as_json": chance.random() < 0.3}
        call = Call(name, chance.choice(FACES), who, arguments)
        self.calls.append(call)
        return call

    async def _kill(self) -> list[ServerProcess]:
        """Those that have died."""
        chance, instant = self._chance, "random"
        if chance.random() < 0.6:
            instant = chance.choice(killed_tasks_app.INSTANTS)
        await asyncio.sleep(chance.uniform(0, 0.2))
        if instant in ("random", "ending"):
            await asyncio.sleep(chance.uniform(0, 0.8))
            await chance.choice(self._workers).kill()
        if instant != "random" and not await self._dies_at(instant):
            instant = "random"
            if not self._dead():
                await chance.choice(self._workers).kill()
        self.instants[instant] += 1
        return self._dead()

    async def _dies_at(self, instant: str) -> bool:
        """Whether a worker has died there, in time."""
        before = len(self._dead())
        self._armed.write_text(instant)
        for _ in range(150):
            await asyncio.sleep(0.02)
            if len(self._dead()) > before:
                return True
        with contextlib.suppress(FileNotFoundError):
            self._armed.unlink()
        return len(self._dead()) > before

    def _dead(self) -> list[ServerProcess]:
        return [each for each in self._workers if not each.is_running]

    async def _restart(self, victim: ServerProcess) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, 1.0))
        await victim.start()

    # What a client does.

    async def _live(self, call: Call) -> None:
        await self._begin(call)
        await self._end(call)

    async def _begin(self, call: Call) -> None:
        await asyncio.sleep(self._chance.uniform(0, 0.6))
        with contextlib.suppress(*_BROKEN):
            match call.face:
                case "extension" | "asking":
                    tool = "ask" if call.face == "asking" else "work"
                    client = TaskClient(self._port(), extra=call.who)
                    told = await client.call(tool, **call.arguments)
                    call.task = told.get("taskId", "")
                case "core":
                    call.session = await RawSession.open(self._port(), HANDSHAKE, extra=call.who)
                    given = {"name": "work", "arguments": call.arguments, "task": {}}
                    told = await _message(await call.session.post("tools/call", given))
                    call.task = told.get("result", {}).get("task", {}).get("taskId", "")

    async def _end(self, call: Call) -> None:
        """Ask until it has ended, at any worker."""
        if not call.is_told:
            return
        began = time.monotonic()
        while not call.end and time.monotonic() - began < _HANGS:
            with contextlib.suppress(*_BROKEN):
                call.end = await self._ask(call)
            await asyncio.sleep(0.1)
        call.ended_after = time.monotonic() - began
        if not call.end:
            call.faults.append("hangs")

    async def _again(self, call: Call) -> None:
        """Whoever asks once more is told the same."""
        if call.end and call.face != "hand_back" and not call.faults:
            for worker in self._workers:
                again = ""
                with contextlib.suppress(*_BROKEN):
                    again = await self._ask(call, worker.port)
                if again not in ("", call.end):
                    call.faults.append(f"ends in two ways: {call.end!r}, {again!r}")

    async def _ask(self, call: Call, port: int | None = None) -> str:
        """How it has ended; empty while it has not."""
        port = port or self._port()
        match call.face:
            case "extension" | "asking":
                return await self._poll(call, TaskClient(port, extra=call.who))
            case "core":
                return await self._result(call, port)
            case _:
                return await self._repeat(call, port)

    async def _poll(self, call: Call, client: TaskClient) -> str:
        found = await client.get(call.task)
        match found.get("status"):
            case "input_required":
                given = {"taskId": call.task, "inputResponses": {"who": {"action": "accept"}}}
                await client.ask("tasks/update", given)
                return ""
            case "working" | 503 | 502:
                return ""
            case "completed":
                return self._judged(call, {"result": found["result"]})
            case "failed":
                return self._judged(call, found)
            case _:
                return self._wrong(call, found)

    async def _result(self, call: Call, port: int) -> str:
        assert call.session is not None
        call.session.port = port
        if self._chance.random() < 0.5:
            asked = await call.session.post("tasks/get", {"taskId": call.task})
            found = await _message(asked)
            if found.get("result", {}).get("status") in ("working", "input_required"):
                return ""
            if "result" not in found and not _is_away(found):
                return self._wrong(call, found)
        found = await _message(await call.session.post("tasks/result", {"taskId": call.task}))
        return "" if _is_away(found) else self._judged(call, found)

    async def _repeat(self, call: Call, port: int) -> str:
        extra = call.who | ({"idempotency-key": call.name} if call.face == "key" else {})
        session = RawSession(port, MODERN, extra=extra)
        is_free = call.face == "hand_back" and call.task != "handed back"
        try:
            found = await _message(await session.call("work", **call.arguments))
        except _BROKEN:
            # Nothing was told that it could go by: it may run once more.
            call.allowed += is_free
            raise
        if _is_away(found):
            call.allowed += is_free
            return ""
        if "still running" in str(found.get("result", "")):
            call.task = "handed back"
            return ""
        return self._judged(call, found)

    def _judged(self, call: Call, found: Any) -> str:
        match found:
            case {"result": {"content": [{"text": text}]}} if text == f"run {call.name}":
                return "done"
            case {"error": {"code": -32000, "message": str(message)}}:
                return message
            case _:
                return self._wrong(call, found)

    def _wrong(self, call: Call, found: Any) -> str:
        call.faults.append(f"told id, and {str(found)[:200]}")
        return "wrong"

    # What has become of it.

    def _judge(self, calls: list[Call], dead: set[int]) -> None:
        lines = [line.split() for line in self._runs.read_text().splitlines()]
        for call in calls:
            processes = [int(pid) for name, pid in lines if name == call.name]
            if len(processes) > call.allowed:
                call.faults.append(f"ran {len(processes)} times")
            if call.end == "done" and not processes:
                call.faults.append("a result of nothing")
            if call.end not in ("", "done", "wrong") and processes and not dead & {*processes}:
                call.faults.append(f"failed, and its worker lives: {call.end!r}")
            self.slowest = max(self.slowest, call.ended_after)
            for fault in call.faults:
                self.faults[fault.split(":")[0][:60]] += 1
                print(f"  {call.name} {call.face} {call.arguments}: {fault}", flush=True)


async def _message(response: Response) -> Any:
    """What answers, whichever way it comes."""
    try:
        if response.is_stream:
            found = [frame.message async for frame in response.frames() if frame.is_response]
            if not found:
                raise EOFError
            return found[-1]
        told = json.loads(await response.body() or b"{}")
        return {**told, "status": response.status}
    finally:
        response.close()


def _is_away(found: dict[str, Any]) -> bool:
    """Whether its client is told to ask again, and nothing else."""
    error = found.get("error") or {}
    return found.get("status") in (502, 503) or bool((error.get("data") or {}).get("resumable"))


async def hunt(store: Store, directory: Path, given: argparse.Namespace) -> bool:
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(2**32)
    environ = {"KILLED_DIRECTORY": str(directory), "KILLED_URL": str(store.settings["url"])}
    settings = {**store.settings, **_SETTINGS}
    environ |= {f"MCP_PERSIST_{k.upper()}": str(v) for k, v in settings.items() if k != "url"}
    app, began = "tests.peers.killed_tasks_app:app()", time.monotonic()
    async with AsyncExitStack() as stack:
        workers = [ServerProcess(app, directory / f"{n}.log", environ=environ) for n in range(2)]
        for worker in workers:
            await stack.enter_async_context(running(worker))
        found = Hunt(workers, directory, random.Random(seed))
        for _ in range(given.kills):
            await found.round(given.calls)
        complaints = [each for worker in workers for each in worker.complaints]
    ends = Counter("told nothing" if not c.is_told else c.end[:40] for c in found.calls)
    print(
        f"{store.name}, seed {seed}: {given.kills} kills, {len(found.calls)} calls in"
        f" {time.monotonic() - began:.0f} s; {dict(found.instants)}; ends {dict(ends)};"
        f" the slowest in {found.slowest:.1f} s; faults {dict(found.faults) or 'none'};"
        f" complaints {complaints or 'none'}",
        flush=True,
    )
    return not found.faults


async def _all(given: argparse.Namespace) -> bool:
    found = [await hunt(store, there, given) for store, there in each_started(given.store)]
    return all(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.peers.killed_tasks")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--calls", type=int, default=12)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--store", nargs="+", choices=STORES, default=STORES)
    given = parser.parse_args()
    with Forks() as ServerProcess.forks:
        right = asyncio.run(_all(given))
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
