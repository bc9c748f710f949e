"""Kills a server with -9 at random moments under load, and asks its store what has survived.

`python -m tests.faults.crash --times 200`; ends with exit code 1 and the seed when anything that
a client has seen is missing, changed, numbered twice or run twice, or when a stream stays open.
With `--workers 2` each request goes to any of them, and one of them is killed: then also when a
call was run of which its client was told that it was not.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mcp_persist_middleware.protocol import event_id
from tests.faults.workers import INTERRUPTED, Store
from tests.support.processes import ServerProcess, running
from tests.support.session import RawSession, last_id
from tests.support.sse_client import Frame

_CLIENTS = 8
_EVENTS = 40
_BROKEN = (OSError, asyncio.IncompleteReadError)


@dataclass(slots=True)
class Seen:
    """What one client saw of one call."""

    name: str
    frames: list[Frame] = field(default_factory=list)
    refused: bool = False
    """Its client was told that it was not run."""

    @property
    def is_answered(self) -> bool:
        return bool(self.frames) and self.frames[-1].is_response


@dataclass(slots=True)
class Crashes:
    """The servers, their clients, and everything those have seen since the beginning."""

    servers: list[ServerProcess]
    store: Store
    ran: Path
    chance: random.Random
    calls: list[Seen] = field(default_factory=list)
    interrupted: int = 0
    _over: bool = False

    @property
    def _port(self) -> int:
        """That of any server."""
        return self.chance.choice(self.servers).port

    async def round(self) -> None:
        """Load, a kill at some moment, a restart; then every call has to have its end."""
        before = len(self.calls)
        self._over = False
        sessions = [await RawSession.open(self._port) for _ in range(_CLIENTS)]
        clients = [asyncio.create_task(self._client(session)) for session in sessions]
        await asyncio.sleep(self.chance.uniform(0.0, 0.6))
        victim = self.chance.choice(self.servers)
        await victim.kill()
        self._over = True
        await asyncio.gather(*clients)
        await victim.start()
        await asyncio.gather(*map(self._finish, self.calls[before:]))
        await self._wait_for_ends()
        self._check(self.calls[before:])

    async def _client(self, session: RawSession) -> None:
        """Call after call, until a server is gone."""
        with contextlib.suppress(*_BROKEN):
            while not self._over:
                session.port = self._port
                seen = Seen(f"call-{len(self.calls)}")
                self.calls.append(seen)
                response = await session.call("count", n=_EVENTS, name=seen.name)
                seen.refused = response.status == 503
                try:
                    async for frame in response.frames():
                        seen.frames += [frame] if frame.id else []
                finally:
                    response.close()

    async def _finish(self, seen: Seen) -> None:
        """Come back with the cursor, for what is left."""
        cursor = last_id(seen.frames)
        if cursor is None or seen.is_answered:
            return
        session = RawSession(self._port, session_id=self._session_of(cursor))
        async with asyncio.timeout(20):
            while not seen.is_answered:
                response = await session.get(last_id(seen.frames))
                seen.frames += [f async for f in response.frames() if f.id or f.is_response]
                response.close()
        error = seen.frames[-1].message.get("error")
        self.interrupted += error is not None
        assert error is None or error["code"] == INTERRUPTED, error

    def _session_of(self, cursor: str) -> str:
        # A priming event may have left before its stream was committed; then nobody owns it.
        position = event_id.parse(cursor)
        assert position is not None
        rows = self.store.rows("SELECT session FROM mcp_stream WHERE id = ?", position.stream)
        return str(rows[0][0]) if rows else "session-lost"

    async def _wait_for_ends(self) -> None:
        """The new process ends what the old one left open, whether somebody asks or not."""
        began = time.monotonic()
        while self.store.rows("SELECT 1 FROM mcp_stream WHERE ended_at IS NULL LIMIT 1"):
            assert time.monotonic() - began < 5, "a stream stays open"
            await asyncio.sleep(0.02)

    def _check(self, calls: list[Seen]) -> None:
        for seen in calls:
            self._check_call(seen)
        assert self.store.rows("PRAGMA integrity_check") == [("ok",)]
        gaps = self.store.rows(
            "SELECT hex(stream) FROM mcp_event GROUP BY stream"
            " HAVING min(sequence) != 1 OR max(sequence) != count(*)"
        )
        assert not gaps, f"numbers are missing: {gaps}"
        ran = set(self.ran.read_text().split())
        assert not [seen.name for seen in calls if seen.refused and seen.name in ran]
        twice = [name for name, n in Counter(self.ran.read_text().split()).items() if n > 1]
        assert not twice, f"run twice: {twice}"

    def _check_call(self, seen: Seen) -> None:
        """Every event that was seen is in the store, with these very bytes, and none is missing."""
        numbered = [(event_id.parse(f.id), f) for f in seen.frames if f.data and f.id]
        if seen.is_answered and not seen.frames[-1].id:
            assert not numbered, f"{seen.name}: a stream that was seen is unknown"
        stored = None
        for expected, (position, frame) in enumerate(numbered, 1):
            assert position is not None
            if stored is None:
                sql = "SELECT sequence, epoch, payload FROM mcp_event WHERE stream = ?"
                rows = self.store.rows(sql, position.stream)
                stored = {(row[0], row[1]): row[2] for row in rows}
            assert position.sequence == expected, (seen.name, position, expected)
            payload = stored.get((position.sequence, position.epoch))
            assert payload is not None, f"{seen.name}: {position} was seen and is not there"
            assert frame.data is not None
            assert frame.data.encode() in payload
        progress = [f.progress for _, f in numbered if f.progress is not None]
        assert progress == list(range(1, len(progress) + 1)), (seen.name, progress)


async def crash(directory: Path, times: int, seed: int, workers: int = 1) -> Crashes:
    """So many rounds on one store.

    Raises:
        AssertionError: a promise was broken.
    """
    store, ran = Store(directory / "events.db"), directory / "ran"
    ran.touch()
    environ = {
        "MCP_PERSIST_URL": f"sqlite+aiosqlite:///{store.path}",
        "MCP_PERSIST_RESUME_ROTATE": "none",
        "TEST_RAN": str(ran),
    }
    servers = [
        ServerProcess("tests.faults.app:app()", directory / f"server{n}.log", environ=environ)
        for n in range(workers)
    ]
    async with contextlib.AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(running(server))
        crashes = Crashes(servers, store, ran, random.Random(seed))
        for number in range(1, times + 1):
            await crashes.round()
            if number % 20 == 0:
                print(f"{number} kills, {len(crashes.calls)} calls", file=sys.stderr, flush=True)
    return crashes


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        crashes = asyncio.run(crash(Path(directory), given.times, given.seed, given.workers))
    events = sum(len(seen.frames) for seen in crashes.calls)
    print(
        f"{given.times} kills: {len(crashes.calls)} calls, {crashes.interrupted} of them "
        f"interrupted, {events} events seen; nothing lost, nothing doubled"
    )


if __name__ == "__main__":
    main()
