"""Shows what is left of calls and sessions when the upstream and the proxy are killed in turn.

Clients call a tool that reports progress, one call after the other, each in a session of its own
and through the proxy. Meanwhile, at random moments, the upstream (or each of its replicas) and the
proxy in turn are killed with -9 and started again at once. A client whose connection breaks comes
back with its cursor; one that is refused asks again.

Run:     python -m tests.proxied.kills [--kills 100] [--upstream everything] [--replicas 1]
         (needs node 20 and npm)
Expect:  every call ends (with its result, an error, or a connection that broke before anything of
         it was there), no event is doubled or missing before an end, every session still answers
         in the end, no child of a killed process is left, and exit code 0.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.proxied.processes import Command, alive, proxy, serving
from tests.proxied.upstreams import KINDS, NPM, Kind
from tests.support.session import RawSession, last_id
from tests.support.sse_client import Frame, Response

_STEPS, _PAUSE = 10, 0.08
_LONGEST = 60.0
"""A call that has not ended by then hangs (seconds)."""
_BROKEN = (OSError, asyncio.IncompleteReadError, TimeoutError)
_TRY_AGAIN = (502, 503, 504)


@dataclass(slots=True)
class Tally:
    """What became of the calls."""

    ends: "Counter[str]" = field(default_factory=Counter)
    refused: int = 0
    """Times that a request was not taken, and put again."""
    resumed: int = 0
    """Times that a client came back with its cursor."""
    wrong: "Counter[str]" = field(default_factory=Counter)
    """What must not be."""


class Caller:
    """One client with its session."""

    def __init__(self, session: RawSession, kind: Kind, tally: Tally) -> None:
        self._session = session
        self._kind = kind
        self._tally = tally
        self._seen: list[Frame] = []

    async def call(self) -> None:
        """One call, to its end, whatever happens."""
        self._seen = []
        try:
            async with asyncio.timeout(_LONGEST):
                end = await self._ended()
        except TimeoutError:
            self._tally.wrong["a call that hangs"] += 1
            return
        self._tally.ends[end] += 1
        progress = [frame.progress for frame in self._seen if frame.progress is not None]
        whole = _STEPS if end == "result" else len(progress)
        if progress != list(range(1, whole + 1)):
            self._tally.wrong[f"progress {progress} before {end}"] += 1

    async def call_until(self, over: asyncio.Future[None]) -> None:
        """One call after the other."""
        while not over.done():
            await self.call()

    async def _ended(self) -> str:
        """How it ended."""
        response = await self._begun()
        while response is not None:
            if response.status != 200:
                self._tally.wrong[f"status {response.status} {await response.body()!r}"] += 1
                return "status"
            async for frame in _until_broken(response):
                self._seen.append(frame)
                if frame.is_response:
                    response.close()
                    return "result" if "result" in frame.message else "error"
            if (cursor := last_id(self._seen)) is None:
                return "broken before an id"
            self._tally.resumed += 1
            response = await self._resumed(cursor)
        return "broken before its head"

    async def _begun(self) -> Response | None:
        """The call's response; None when the connection broke, and nobody knows what of it ran."""
        arguments = self._kind.arguments(_STEPS, _PAUSE)
        while True:
            try:
                return await self._taken(lambda: self._session.call(self._kind.tool, **arguments))
            except ConnectionRefusedError:
                await self._pause()
            except _BROKEN:
                return None

    async def _resumed(self, cursor: str) -> Response:
        while True:
            try:
                return await self._taken(lambda: self._session.get(cursor))
            except _BROKEN:
                await self._pause()

    async def _taken(self, ask: Callable[[], Awaitable[Response]]) -> Response:
        """The response to a request, put again while it is refused."""
        while (response := await ask()).status in _TRY_AGAIN:
            response.close()
            await self._pause()
        return response

    async def _pause(self) -> None:
        self._tally.refused += 1
        await asyncio.sleep(0.1)


async def _until_broken(response: Response) -> AsyncIterator[Frame]:
    with contextlib.suppress(*_BROKEN):
        async for frame in response.frames():
            yield frame


async def _killed(commands: tuple[Command, ...], kills: int, seed: int) -> None:
    """Kill one after the other, at moments that nobody expects."""
    chance = random.Random(seed)
    for number in range(kills):
        await asyncio.sleep(chance.uniform(0.2, 2.0))
        victim = commands[number % len(commands)]
        await victim.kill()
        await victim.start()
        print(".", end="" if (number + 1) % 50 else "\n", flush=True)


async def _all(kind: Kind, given: argparse.Namespace) -> bool:
    clients, kills = given.clients, given.kills
    with tempfile.TemporaryDirectory(prefix="proxied-") as name:
        directory = Path(name)
        upstreams = [kind.start(directory, given.npm) for _ in range(given.replicas)]
        front = proxy(directory, *(upstream.url for upstream in upstreams))
        tally = Tally()
        async with serving(*upstreams, front):
            sessions = [await RawSession.open(front.port) for _ in range(clients)]
            callers = [Caller(session, kind, tally) for session in sessions]
            killing = asyncio.create_task(_killed((*upstreams, front), kills, given.seed))
            began = time.monotonic()
            await asyncio.gather(*(caller.call_until(killing) for caller in callers))
            await killing
            seconds = time.monotonic() - began
            during, tally.ends = tally.ends, Counter()
            await asyncio.gather(*(caller.call() for caller in callers))
            after = tally.ends
        left = alive(set().union(*(each.descendants for each in (*upstreams, front))))
    print(f"{kills} kills in {seconds:.0f} s: {during.total()} calls: {dict(during)}")
    print(
        f"{clients} sessions, requests put again {tally.refused}, streams resumed {tally.resumed}"
    )
    print(f"afterwards, in the same sessions: {dict(after)}; processes left: {sorted(left)}")
    for what, times in tally.wrong.items():
        print(f"  WRONG: {times} x {what}")
    return not tally.wrong and not left and after == Counter(result=clients)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.proxied.kills")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--replicas", type=int, default=1, help="servers behind the proxy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--upstream", choices=KINDS, default="everything")
    parser.add_argument("--npm", type=Path, default=NPM, help="where packages of npm go")
    given = parser.parse_args()
    right = asyncio.run(_all(KINDS[given.upstream], given))
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
