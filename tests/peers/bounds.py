"""Shows that clients who misbehave, and streams that are large, cost bounded memory and disk.

Each load has a server process of its own; memory is its resident set, disk the store's files.

Run:     python -m tests.peers.bounds
Expect:  every line "as expected", and exit code 0: all tools finish although nobody reads them,
         what they sent can be read afterwards, and memory and files stay below the bound that the
         line names.
"""

import asyncio
import contextlib
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import ServerProcess, mcp_server, running
from tests.support.session import RawSession, last_id
from tests.support.sse_client import Response

_MIB = 1024 * 1024
_LONGEST = 180.0


@dataclass(slots=True)
class Watch:
    """A server, its store, and the most memory it has had."""

    server: ServerProcess
    store: Path
    before: int = 0
    peak: int = 0

    def memory(self) -> int:
        """The resident bytes now."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    @property
    def disk(self) -> int:
        """The bytes of the store's files."""
        return sum(path.stat().st_size for path in self.store.parent.glob(self.store.name + "*"))

    @contextlib.asynccontextmanager
    async def sampling(self) -> AsyncIterator[None]:
        """Note the peak meanwhile."""

        async def sample() -> None:
            while True:
                self.peak = max(self.peak, self.memory())
                await asyncio.sleep(0.05)

        self.before = self.memory()
        task = asyncio.create_task(sample())
        try:
            yield
        finally:
            task.cancel()

    @property
    def grown(self) -> float:
        """MiB between the start and the peak."""
        return (self.peak - self.before) / _MIB

    async def finished(self, text: str, times: int = 1) -> None:
        """Wait until tools have said so this often."""
        async with asyncio.timeout(_LONGEST):
            while self.server.log.count(text) < times:
                await asyncio.sleep(0.1)


async def detached(watch: Watch) -> tuple[bool, str]:
    """2,000 calls whose clients reset their connections after the first event."""
    session = await RawSession.open(watch.server.port)
    cursors: list[str | None] = []

    async def leave() -> None:
        call = await session.call("count", n=5, delay=6.0)
        # The priming event's id: the first tick comes seconds later.
        async with contextlib.aclosing(call.frames()) as frames:
            cursors.append((await anext(frames)).id)
        call.reset()

    async with watch.sampling():
        for _ in range(40):
            await asyncio.gather(*(leave() for _ in range(50)))
        held = (watch.memory() - watch.before) / 1024 / 2000
        await watch.finished("count 5 finished", 2000)
    whole = 0
    for cursor in cursors[::20]:
        whole += len(await (await session.get(cursor)).take(6)) == 6
    right = whole == 100 and held < 120
    return right, f"{held:.0f} KiB each (bound 120), {whole} of 100 replayed whole"


async def never_reads(watch: Watch) -> tuple[bool, str]:
    """A client that takes nothing of 20,000 events, and comes back later."""
    session = await RawSession.open(watch.server.port)
    params = {"name": "count", "arguments": {"n": 20_000, "delay": 0}, "_meta": _TOKEN}
    async with watch.sampling():
        call = await session.post("tools/call", params, receive_buffer=4096)
        await watch.finished("count 20000 finished")
    cursor = last_id(await call.take(1))
    call.reset()
    frames = await (await session.get(cursor)).take(20_000)
    got = [frame.progress for frame in frames if frame.progress is not None]
    right = got == list(range(2, 20_001)) and frames[-1].is_response and watch.grown < 32
    return right, f"{watch.grown:.1f} MiB (bound 32), {len(got) + 1} of 20000 events in the end"


async def one_byte_a_second(watch: Watch) -> tuple[bool, str]:
    """50 clients that read one byte a second, of 1,000 events each."""
    sessions = [await RawSession.open(watch.server.port) for _ in range(50)]
    params = {"name": "count", "arguments": {"n": 1000, "delay": 0}, "_meta": _TOKEN}

    async def crawl(call: Response) -> None:
        while True:
            await asyncio.sleep(1)
            await call._reader.readexactly(1)

    async with watch.sampling():
        calls = [
            await session.post("tools/call", params, receive_buffer=4096) for session in sessions
        ]
        crawling = [asyncio.create_task(crawl(call)) for call in calls]
        await watch.finished("count 1000 finished", 50)
        await asyncio.sleep(3)
    for task, call in zip(crawling, calls, strict=True):
        task.cancel()
        call.reset()
    right = watch.grown < 64
    return right, f"{watch.grown:.1f} MiB for all (bound 64), all 50 tools finished"


async def large_result(watch: Watch) -> tuple[bool, str]:
    """A result of 10 MB, read whole, and read again after a cut in its middle."""
    session = await RawSession.open(watch.server.port)
    async with watch.sampling():
        (whole,) = await (await session.call("big", size=10_000_000)).take(1)
        call = await session.call("big", size=10_000_000)
        async with contextlib.aclosing(call.frames()) as frames:
            cursor = (await anext(frames)).id
        call.reset()
        (again,) = await (await session.get(cursor)).take(1)
    texts = {len(frame.message["result"]["content"][0]["text"]) for frame in (whole, again)}
    return texts == {10_000_000} and watch.grown < 400, f"{watch.grown:.0f} MiB (bound 400)"


async def over_its_limits(watch: Watch) -> tuple[bool, str]:
    """100,000 events on one stream that may keep 10,000."""
    session = await RawSession.open(watch.server.port)
    call = await session.call("count", n=100_000, delay=0)
    first = await call.take(1)
    call.reset()
    async with watch.sampling():
        await watch.finished("count 100000 finished")
    replay = await session.get(last_id(first))
    frames = [frame async for frame in replay.frames()]
    kept = [frame.progress for frame in frames if frame.progress is not None]
    gaps = [int(m[1]) for f in frames if (m := re.match(r"gap: (\d+)", f.comment or ""))]
    right = (
        len(kept) <= 10_000
        and kept == list(range(100_001 - len(kept), 100_001))
        and sum(gaps) + len(kept) == 99_999
        and frames[-1].is_response
        and watch.grown < 64
        and watch.disk < 96 * _MIB
    )
    told = f"{watch.grown:.1f} MiB, {watch.disk / _MIB:.1f} MiB on disk"
    return right, f"{told} (bounds 64, 96), {len(kept)} kept, gap of {sum(gaps)} reported"


_TOKEN = {"progressToken": "p"}
_LOADS: tuple[tuple[Callable[[Watch], Awaitable[tuple[bool, str]]], dict[str, Any]], ...] = (
    (detached, {}),
    (never_reads, {"max_stream_events": 30_000}),
    (one_byte_a_second, {}),
    (large_result, {}),
    (over_its_limits, {"max_stream_events": 10_000}),
)


async def _all() -> bool:
    everything = True
    for load, settings in _LOADS:
        with tempfile.TemporaryDirectory() as directory:
            server = mcp_server(Path(directory), settings=settings)
            async with running(server):
                right, told = await load(Watch(server, Path(directory) / "events.db"))
        about = (load.__doc__ or "").splitlines()[0]
        verdict = "as expected" if right else "NOT as expected"
        print(f"{about} {told}: {verdict}", flush=True)
        everything &= right
    return everything


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(_all()) else 1)
