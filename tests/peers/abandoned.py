"""Shows that sessions that nobody comes back to cost nothing in the end.

Waves of clients initialise, make one call and are never seen again. One client stays and measures
what a call costs it: before, with all of them there, and after they have expired.

Run:     python -m tests.peers.abandoned [--sessions 10000] [--ttl 60]
Expect:  after each wave no row of it is left, the second one needs no more memory and no larger
         file than the first, and the cost of a call stays what it was; exit code 0.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mcp_persist_middleware import PersistMiddleware
from tests.faults.workers import Store
from tests.peers.bounds import Watch
from tests.support.processes import ServerProcess, running
from tests.support.scripted import Call, Message, Receive, Send
from tests.support.session import RawSession

_AT_ONCE, _CALLS, _SERIES = 16, 100, 5
_MIB = 1024 * 1024
_PURGE = 1.0


class Forgetful:
    """An application that keeps nothing: what grows is the middleware's."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError("no lifespan")
        request = json.loads((await receive())["body"])
        call = Call(request, scope, receive, send)
        match request.get("method"):
            case "initialize":
                await call.head((b"mcp-session-id", secrets.token_hex(16).encode()))
                version = request["params"]["protocolVersion"]
                result = {"protocolVersion": version, "capabilities": {}, "serverInfo": {}}
                await call.emit({"id": request["id"], "result": result})
                await call.end()
            case "tools/call":
                await call.head()
                await call.progress(1)
                await call.result()
            case _:
                await call.json(202, None)


def app() -> PersistMiddleware:
    """The application, with its settings from the environment."""
    return PersistMiddleware(Forgetful())


@dataclass(slots=True)
class Moment:
    """What there is at one time."""

    name: str
    sessions: int
    streams: int
    memory: int
    disk: int
    cost: float
    """The median of one call, in milliseconds."""

    def __str__(self) -> str:
        return (
            f"{self.name:<22} {self.sessions:>6} sessions {self.streams:>6} streams "
            f"{self.memory / _MIB:>6.1f} MiB {self.disk / _MIB:>6.1f} MiB on disk "
            f"{self.cost:>6.2f} ms a call"
        )


@dataclass(slots=True)
class Abandoned:
    """The server, its store, and the client that stays."""

    watch: Watch
    store: Store
    stays: RawSession

    async def cost(self) -> float:
        """The median of one call, in milliseconds: of several series the best, for the machine
        has other things to do as well."""
        medians = []
        for _ in range(_SERIES):
            took = []
            for _ in range(_CALLS):
                began = time.perf_counter()
                response = await self.stays.call("any")
                await response.body()
                response.close()
                took.append((time.perf_counter() - began) * 1000)
            medians.append(median(took))
        return min(medians)

    def rows(self, table: str) -> int:
        return int(self.store.rows(f"SELECT count(*) FROM mcp_{table}")[0][0])

    async def moment(self, name: str) -> Moment:
        """Look, and print it."""
        cost = await self.cost()
        seen = Moment(
            name,
            self.rows("session"),
            self.rows("stream"),
            self.watch.memory(),
            self.watch.disk,
            cost,
        )
        print(seen, flush=True)
        return seen

    async def wave(self, sessions: int) -> None:
        """So many clients that come once."""
        left = iter(range(sessions))

        async def clients() -> None:
            for _ in left:
                session = await RawSession.open(self.stays.port)
                response = await session.call("any")
                await response.body()
                response.close()

        await asyncio.gather(*(clients() for _ in range(_AT_ONCE)))

    async def expired(self, seconds: float) -> None:
        """Wait until the client that stays is alone, and what it had is purged as well."""
        async with asyncio.timeout(seconds):
            while self.rows("session") > 1 or self.rows("stream") or self.rows("event"):
                # Its session is in use.
                await asyncio.sleep(1)
                if self.rows("session") > 1:
                    (await self.stays.post("ping")).close()


async def abandoned(directory: Path, sessions: int, ttl: float) -> list[str]:
    """Two waves; what is not as it should be."""
    path = directory / "events.db"
    environ = {
        "MCP_PERSIST_URL": f"sqlite+aiosqlite:///{path}",
        "MCP_PERSIST_SESSION_TTL": str(ttl),
        "MCP_PERSIST_TTL": str(ttl),
        "MCP_PERSIST_PURGE_INTERVAL": str(_PURGE),
    }
    server = ServerProcess("tests.peers.abandoned:app()", directory / "server.log", environ=environ)
    async with running(server):
        stays = await RawSession.open(server.port)
        story = Abandoned(Watch(server, path), Store(path), stays)
        await story.cost()
        moments = [await story.moment("before")]
        for wave in (1, 2):
            began = time.monotonic()
            await story.wave(sessions)
            print(f"{sessions} clients came in {time.monotonic() - began:.0f} s", flush=True)
            moments.append(await story.moment(f"wave {wave}"))
            await story.expired(3 * ttl + 120)
            moments.append(await story.moment(f"wave {wave} has expired"))
        complaints = server.complaints
    return _faults(moments, sessions) + complaints


def _faults(moments: list[Moment], sessions: int) -> list[str]:
    before, first, gone, second, again = moments
    right = {
        "the wave was not there at once": min(first.sessions, second.sessions) > sessions,
        "rows are left": gone.sessions == again.sessions == 1,
        "memory grows with each wave": again.memory < 1.15 * max(first.memory, gone.memory),
        "the file grows with each wave": again.disk < 1.25 * first.disk,
        "calls became slower": max(m.cost for m in moments) < 1.5 * before.cost + 0.5,
    }
    return [what for what, is_right in right.items() if not is_right]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.peers.abandoned", description=__doc__)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--ttl", type=float, default=60.0)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        faults = asyncio.run(abandoned(directory, given.sessions, given.ttl))
    print(*faults or ["as expected"], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
