"""A call runs on worker A and is read on worker B; then A stops, is cut off, and is killed.

`python -m tests.faults.apart [--store postgres] [--lease 10] [--away 60] [--only lag]`; ends with
exit code 1 when B does not read live, when B leaves its reader without an honest end for longer
than the lease and a moment, or when A, back again, writes to a stream that was ended without it,
runs what was not its own any more, or does not go on as a new worker. First the lag: how old an
event is when its reader on B has it. A is cut off by relays of its own in front of the store's
servers: nothing passes in either direction, nobody is told, and what waits arrives when they are
whole again. With Redis it is also cut off from SQL alone, with the same end, and from Redis alone,
which ends nothing.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from mcp_persist_middleware.protocol import event_id
from tests.benchmarks.report import percentile
from tests.faults.apart_app import worker
from tests.faults.workers import elsewhere, error_of, numbers
from tests.support.processes import ServerProcess, running
from tests.support.scripted import until
from tests.support.session import RawSession
from tests.support.sse_client import Frame, Response
from tests.support.started import started
from tests.support.stores import Store
from tests.support.wire import Wire

FAULTS = {
    "postgres": ("stopped", "cut off", "killed"),
    "postgres+redis": ("stopped", "cut off", "cut off from SQL", "cut off from Redis", "killed"),
}
_RATE, _ENDLESS = 50.0, 1_000_000
_LAG_RATE, _LAG_SECONDS, _CAUGHT_UP = 200.0, 5.0, 0.3
# A second beyond the lease is the promise; the rest is for a machine that is busy.
_SLACK, _BUSY = 1.0, 1.0
_BACK_SECONDS = 20.0


@dataclass(slots=True)
class Pair:
    """Worker A behind relays of its own, and worker B."""

    store: Store
    lease: float
    a: ServerProcess
    b: ServerProcess
    wires: dict[str, Wire] = field(default_factory=dict)
    """By the setting that leads through it: `url`, `redis`."""

    async def workers(self) -> set[str]:
        """The names of those that are there."""
        return {row[0] for row in await self.store.rows("SELECT id FROM mcp_worker")}

    async def rows(self, stream: bytes) -> list[tuple[Any, ...]]:
        """All that the store has of one stream."""
        sql = "SELECT epoch, state, last_sequence, ended_at FROM mcp_stream WHERE id = :stream"
        found = await self.store.rows(sql, stream=stream)
        sql = "SELECT sequence, epoch, kind, payload FROM mcp_event WHERE stream = :stream"
        return [*found, *await self.store.rows(f"{sql} ORDER BY sequence", stream=stream)]


@dataclass(slots=True)
class Ended:
    """One fault: when the reader on B had the end, and what happened to the rest."""

    fault: str
    after: float = 0.0
    events: int = 0
    relayed: float = 0.0
    back: float = 0.0

    def __str__(self) -> str:
        return (
            f"A {self.fault}: B's reader had {self.events} events without a gap and the error "
            f"after {self.after:.1f} s, a relayed request to A was run by B after "
            f"{self.relayed:.1f} s; A wrote nothing more, ran nothing, "
            f"and was a new worker {self.back:.1f} s later"
        )


@asynccontextmanager
async def pair(
    store: Store, directory: Path, lease: float, *, wired: bool = True
) -> AsyncIterator[Pair]:
    """Both workers, started."""
    timeout = min(5.0, lease / 2)
    settings = {"lease_seconds": lease, "store_timeout": timeout, "drain_seconds": 1}
    direct = store.settings | settings
    async with AsyncExitStack() as stack:
        through, wires = dict(direct), {}
        for name in {"url", "redis"} & store.settings.keys() if wired else ():
            url = make_url(str(store.settings[name]))
            assert url.port is not None, "a store that is a server"
            wires[name] = await stack.enter_async_context(Wire(url.port))
            there = url.set(port=wires[name].port)
            through[name] = there.render_as_string(hide_password=False)
        a, b = worker(directory, "a", through), worker(directory, "b", direct)
        await stack.enter_async_context(running(a))
        await stack.enter_async_context(running(b))
        try:
            yield Pair(store, lease, a, b, wires)
        except Exception as error:
            error.add_note(f"A said:\n{a.log}\nB said:\n{b.log}")
            raise


async def lag(both: Pair, rate: float = _LAG_RATE) -> list[float]:
    """How many milliseconds old each event is when it is read on B, live."""
    session = await RawSession.open(both.a.port)
    call = await session.call("tick", name="lag", n=int(rate * _LAG_SECONDS), rate=rate)
    first = await call.take(1)
    call.reset()
    began = time.monotonic_ns()
    reader = await elsewhere(session, both.b).get(first[-1].id)
    ages = []
    async for frame in reader.frames():
        now = time.monotonic_ns()
        if frame.progress is not None:
            made = int(frame.message["params"]["message"])
            if made - began > _CAUGHT_UP * 1e9:
                ages.append((now - made) / 1e6)
    assert len(ages) > rate * _LAG_SECONDS / 2
    return ages


async def _following(both: Pair, name: str) -> tuple[RawSession, Response, list[Frame]]:
    """A call on A that does not end by itself, whose client has come back on B and reads live."""
    session = await RawSession.open(both.a.port)
    call = await session.call("tick", name=name, n=_ENDLESS, rate=_RATE)
    seen = await call.take(5)
    call.reset()
    reader = await elsewhere(session, both.b).get(seen[-1].id)
    assert reader.status == 200
    rest = await reader.take(25)
    made = int(rest[-1].message["params"]["message"])
    assert time.monotonic_ns() - made < 1e9, "not live"
    return session, reader, seen + rest


@asynccontextmanager
async def _hurt(both: Pair, fault: str) -> AsyncIterator[None]:
    """A is away within the block, and back after it."""
    match fault:
        case "stopped":
            os.kill(both.a.pid, signal.SIGSTOP)
            try:
                yield
            finally:
                os.kill(both.a.pid, signal.SIGCONT)
        case "cut off" | "cut off from SQL" | "cut off from Redis":
            cut = {"cut off from SQL": {"url"}, "cut off from Redis": {"redis"}}
            wires = [both.wires[name] for name in cut.get(fault, both.wires.keys())]
            for wire in wires:
                wire.hold()
            try:
                yield
            finally:
                for wire in wires:
                    wire.release()
        case _:
            await both.a.kill()
            yield
            await both.a.start()


async def fail(both: Pair, fault: str, away: float) -> Ended:
    """One fault, for at least so many seconds.

    Raises:
        AssertionError: a promise was broken.
    """
    told = Ended(fault)
    before = await both.workers()
    session, reader, seen = await _following(both, fault)
    other = await RawSession.open(both.a.port)
    position = event_id.parse(seen[0].id)
    assert position is not None
    async with asyncio.timeout(away + both.lease + _BACK_SECONDS):
        began = time.monotonic()
        async with _hurt(both, fault):
            queued = await _queued(both, session, fault) if fault == "stopped" else None
            relayed = asyncio.create_task(_relay_request(both, other, f"relayed request {fault}"))
            seen += [frame async for frame in reader.frames(both.lease + 10) if frame.data]
            told.after, told.events = time.monotonic() - began, len(seen) - 1
            told.relayed = await relayed - began
            rows = await both.rows(position.stream)
            await asyncio.sleep(max(0.0, away - (time.monotonic() - began)))
        healed = time.monotonic()
        _honest(both, told, seen)
        if queued is not None:
            assert (await queued).status == 503, "it ran what had waited in its socket"
        await _new_worker(both, fault, before)
        told.back = time.monotonic() - healed
    await _apart(both, fault, session, position.stream, rows, seen)
    return told


async def _queued(both: Pair, session: RawSession, fault: str) -> asyncio.Task[Response]:
    """A request that sits in the socket of a process that does not run."""
    patient = {"name": "tick", "arguments": {"name": f"queued {fault}", "n": 1, "rate": 10}}
    return asyncio.create_task(session.post("tools/call", patient, timeout=3600))


async def _relay_request(both: Pair, session: RawSession, name: str) -> float:
    """A call asked of B for a session of A; when it had its result."""
    params = {"name": "tick", "arguments": {"name": name, "n": 3, "rate": 50}}
    call = await elsewhere(session, both.b).post("tools/call", params, timeout=both.lease + 15)
    frames = [frame async for frame in call.frames() if frame.data]
    answer = frames[-1].message
    # Redis alone carries it to A, which runs it and may be given up before its answer is anywhere.
    is_lost = name.endswith("from SQL") and answer.get("error", {}).get("code") is not None
    assert is_lost or answer["result"] == {"value": name}
    return time.monotonic()


def _honest(both: Pair, told: Ended, seen: list[Frame]) -> None:
    assert told.after < both.lease + _SLACK + _BUSY, told.after
    assert told.relayed < both.lease + _SLACK + _BUSY + 1, told.relayed
    assert numbers(seen) == list(range(1, len(seen) + 1))
    assert error_of(seen)["data"]["events"] == len(seen) - 1
    assert [frame.progress for frame in seen] == [*range(1, len(seen)), None]


async def _new_worker(both: Pair, fault: str, before: set[str]) -> None:
    """A is there under another name, and serves."""
    if fault != "killed":
        await both.a.wait_for_log("goes on as a new one", _BACK_SECONDS)
    while len(await both.workers()) != 2 or await both.workers() == before:
        await asyncio.sleep(0.05)
    name = f"after {fault}"
    while True:
        # Until it has its new lease it says that it runs nothing.
        with suppress(AssertionError):
            session = await RawSession.open(both.a.port)
            break
        await asyncio.sleep(0.05)
    call = await session.call("tick", name=name, n=20, rate=_RATE)
    first = await call.take(1)
    reader = await elsewhere(session, both.b).get(first[-1].id)
    rest = [frame async for frame in reader.frames() if frame.data]
    assert numbers(first + rest) == list(range(1, 22))
    assert rest[-1].message["result"] == {"value": name}


async def _apart(
    both: Pair,
    fault: str,
    session: RawSession,
    stream: bytes,
    rows: list[tuple[Any, ...]],
    seen: list[Frame],
) -> None:
    """A has left the stream that was ended without it alone, and ran nothing that was not its."""
    if fault != "killed":
        await until(lambda: f"tick {fault} cancelled" in both.a.log)
    assert await both.rows(stream) == rows, "A wrote on"
    for port in (both.a, both.b):
        again = await elsewhere(session, port).get(seen[0].id)
        replay = [frame async for frame in again.frames() if frame.data]
        assert [frame.data for frame in replay] == [frame.data for frame in seen[1:]]
    ran = both.a.log + both.b.log
    assert ran.count(f"tick relayed request {fault} started") == 1, (
        "a relayed request ran twice, or never"
    )
    if fault != "cut off from SQL":
        # Then Redis carries relayed requests to A while its lease is young.
        assert f"tick relayed request {fault} started" in both.b.log
    assert f"tick queued {fault} started" not in ran
    assert f"tick {fault} finished" not in ran
    assert "Traceback" not in ran


async def redis_alone(both: Pair, away: float) -> str:
    """A is cut off from Redis, and not from SQL: nobody dies of it, and B reads on.

    Raises:
        AssertionError: a promise was broken.
    """
    before, quiet = await both.workers(), 0.0
    _, reader, seen = await _following(both, "without Redis")
    async with _hurt(both, "cut off from Redis"):
        began = time.monotonic()
        while (now := time.monotonic()) - began < away:
            seen += await reader.take(1, both.lease)
            quiet = max(quiet, time.monotonic() - now)
    await both.a.wait_for_log(r"\bback\b", _BACK_SECONDS)
    seen += await reader.take(50)
    assert numbers(seen) == list(range(1, len(seen) + 1))
    assert await both.workers() == before
    reader.reset()
    return f"A cut off from Redis for {away:g} s: B read on, at most {quiet:.1f} s without an event"


async def measure(store: Store, directory: Path, rounds: int = 3) -> None:
    """Print the lag of a few rounds, of which one warms up; without relays in between."""
    async with pair(store, directory, 10.0, wired=False) as both:
        await lag(both)
        for rate in (_LAG_RATE, _LAG_RATE / 20):
            for _ in range(rounds):
                ages = await lag(both, rate)
                told = f"p50 {percentile(ages, 0.5):.1f} ms, p99 {percentile(ages, 0.99):.1f} ms"
                print(f"lag, A to B, {rate:g} events/s: {told}", flush=True)


async def faults(
    store: Store, directory: Path, lease: float, away: float, *chosen: str
) -> list[str]:
    """Every fault, or the chosen ones, one after the other on one pair of workers."""
    told = []
    async with pair(store, directory, lease) as both:
        for fault in chosen or FAULTS[store.name]:
            if fault == "cut off from Redis":
                told.append(await redis_alone(both, away))
            else:
                told.append(str(await fail(both, fault, away if fault != "killed" else 0)))
    return told


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.faults.apart", description=__doc__)
    parser.add_argument("--store", choices=sorted(FAULTS), default="postgres")
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--away", type=float, default=60.0)
    parser.add_argument("--only", choices=["lag", "faults"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with started(given.store, directory) as store:
            if given.only != "faults":
                asyncio.run(measure(store, directory))
            if given.only != "lag":
                for line in asyncio.run(faults(store, directory, given.lease, given.away)):
                    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
