"""Stops a session's worker (SIGSTOP) in the middle of everything, and lets it go on too late.

`python -m tests.faults.frozen [--lease 10] [--stop 60]`; ends with exit code 1 when the worker ran
or wrote anything after it went on, or when a client that could have its answer had to wait for
that. With event streams and in JSON mode, with calls of its own clients and of other workers', with
requests in its socket and relayed requests in its inbox. Then the store is away for longer than the
lease, and nobody is declared dead.
"""

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.workers import Workers, elsewhere
from tests.support.processes import ServerProcess, stand_still
from tests.support.session import RawSession
from tests.support.sse_client import Response

_QUEUED, _REQUESTS = 20, 5
# Who waits for a relayed request looks once a second, and a slow machine takes a moment.
_SLACK = 3.0
_LONG = 3600.0


@dataclass(slots=True)
class Frozen:
    """One stop: after how many seconds who had an answer, and which."""

    mode: str
    answers: dict[str, tuple[float, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        told = [
            f"{what} after {after:.1f} s: {text}" for what, (after, text) in self.answers.items()
        ]
        return f"{self.mode}: " + "; ".join(told)


async def _answer(response: Response) -> str:
    """What ends a call, in short."""
    if response.status != 200:
        await response.body()
        return str(response.status)
    if not response.is_stream:
        return _short(json.loads(await response.body()))
    frames = [frame async for frame in response.frames() if frame.data]
    if not frames or not frames[-1].is_response:
        return "ended without an answer"
    return _short(frames[-1].message)


def _short(message: Any) -> str:
    if "error" in message:
        return str(message["error"]["message"])
    return str(message["result"]["content"][0]["text"])


async def _slow(session: RawSession, seconds: float) -> Response:
    """A call that takes so long, by a client with all the patience in the world."""
    params = {"name": "slow", "arguments": {"seconds": seconds}}
    return await session.post("tools/call", params, timeout=_LONG)


def _seconds(base: float, number: int) -> float:
    """A length that names its call in the servers' logs."""
    return round(base + number / 10_000, 4)


async def frozen(directory: Path, mode: str, lease: float, stop: float) -> Frozen:
    """One worker stands still for `stop` seconds.

    Raises:
        AssertionError: a promise was broken.
    """
    told = Frozen(mode)
    timeout = min(5.0, lease / 4)
    workers = Workers(directory, lease_seconds=lease, store_timeout=timeout, drain_seconds=1)
    async with workers.running("one", "two", mode=mode) as (one, two):
        sessions = [await RawSession.open(one.port) for _ in range(4)]
        own = asyncio.create_task(_slow(sessions[0], _LONG + 1))
        relayed = asyncio.create_task(_slow(elsewhere(sessions[1], two), _LONG + 2))
        for number in (1, 2):
            await one.wait_for_log(f"slow {_LONG + number} started")
        reader = await _reader(sessions[2], two) if mode == "stateful" else None
        stand_still(one, workers.store)
        try:
            await _meanwhile(told, workers, (one, two), sessions, relayed, reader, lease, stop)
        finally:
            os.kill(one.pid, signal.SIGCONT)
        told.answers["its own client"] = (stop, await _answer(await asyncio.wait_for(own, 10)))
        assert told.answers["its own client"][1] in ("503", "ended without an answer")
    return told


async def _reader(session: RawSession, two: ServerProcess) -> Response:
    """A call that runs on one worker and is read on the other."""
    call = await session.call("count", n=1_000_000, delay=0.1)
    seen = await call.take(2)
    return await elsewhere(session, two).get(seen[-1].id)


async def _meanwhile(
    told: Frozen,
    workers: Workers,
    servers: tuple[ServerProcess, ServerProcess],
    sessions: list[RawSession],
    relayed: asyncio.Task[Response],
    reader: Response | None,
    lease: float,
    stop: float,
) -> None:
    """What clients see while the worker stands still, and what it does when it goes on."""
    one, two = servers
    began = time.monotonic()

    async def clock(what: str, answer: Awaitable[str]) -> None:
        text = await answer
        told.answers[what] = (time.monotonic() - began, text)

    async def first(call: Awaitable[Response]) -> str:
        return await _answer(await call)

    # They sit in the socket of a process that does not run.
    lengths = [_seconds(0.01, number) for number in range(_QUEUED)]
    queued = [asyncio.create_task(_slow(sessions[0], s)) for s in lengths]
    # And these in its inbox.
    enqueued = [_seconds(0.02, number) for number in range(_REQUESTS)]
    all_relayed = [_slow(elsewhere(sessions[3], two), s) for s in enqueued]
    waiting = [clock(f"relayed request {n}", first(call)) for n, call in enumerate(all_relayed)]
    waiting.append(clock("a call that it ran for the other worker", first(relayed)))
    if reader is not None:
        waiting.append(clock("a reader on the other worker", _answer(reader)))
    async with asyncio.timeout(min(stop, lease + 10)):
        await asyncio.gather(*waiting)
    for what, (after, text) in told.answers.items():
        assert after < lease + _SLACK, (what, after)
        expected = "slept" if what.startswith("relayed") else "not run again"
        assert expected in text, (what, text)
    assert not any(task.done() for task in queued)
    left = _rows(workers)
    await asyncio.sleep(max(0.0, stop - (time.monotonic() - began)))
    os.kill(one.pid, signal.SIGCONT)
    async with asyncio.timeout(15):
        answers = await asyncio.gather(*(first(task) for task in queued))
    assert set(answers) == {"503"}, answers
    await one.wait_for_log("stood still")
    await _serves(sessions[0], one)
    for length in lengths:
        assert f"slow {length} started" not in one.log, "it ran what had waited in its socket"
    ran = one.log + two.log
    for length in enqueued:
        assert ran.count(f"slow {length} started") == 1, "a relayed request ran twice, or never"
        assert f"slow {length} started" not in one.log
    after = _rows(workers)
    assert left.items() <= after.items(), "it wrote on streams that were not its own any more"


def _rows(workers: Workers) -> dict[str, Any]:
    """What the store has of each stream."""
    sql = (
        "SELECT hex(s.id), s.epoch, s.state, s.last_sequence, count(e.sequence), max(e.epoch)"
        " FROM mcp_stream s LEFT JOIN mcp_event e ON e.stream = s.id WHERE s.ended_at IS NOT NULL"
        " GROUP BY s.id"
    )
    return {row[0]: row[1:] for row in workers.store.rows(sql)}


async def _serves(session: RawSession, server: ServerProcess) -> None:
    """A call that is repeated until the worker has its new lease."""
    again = elsewhere(session, server)
    async with asyncio.timeout(15):
        while (answer := await _answer(await again.call("echo", text="here"))) == "503":
            await asyncio.sleep(0.05)
    assert answer == "here"


async def outage(directory: Path, lease: float) -> str:
    """The store is away for longer than the lease: nobody dies of it.

    Raises:
        AssertionError: somebody did, or a call was lost.
    """
    workers = Workers(directory, lease_seconds=lease, store_timeout=min(5.0, lease / 4))
    async with workers.running("one", "two") as (one, two):
        session = await RawSession.open(one.port)
        n = int((lease + 6) / 0.1)
        call = await session.call("count", n=n, delay=0.1)
        seen = await call.take(3)
        before = workers.store.workers().keys()
        with workers.store.locked():
            # The length of the outage is what is tested.
            await asyncio.sleep(lease + 3)
        seen += [frame async for frame in call.frames() if frame.data]
        assert [frame.progress for frame in seen[:-1]] == list(range(1, n + 1))
        assert "result" in seen[-1].message
        assert workers.store.workers().keys() == before
        assert "stood still" not in one.log + two.log
        assert "is gone" not in one.log + two.log
    return (
        f"the store was away for {lease + 3:g} s: {n} events and the result, nobody declared dead"
    )


async def _all(lease: float, stop: float) -> None:
    async def story(mode: str) -> str:
        with tempfile.TemporaryDirectory() as directory:
            return str(await frozen(Path(directory), mode, lease, stop))

    async def away() -> str:
        with tempfile.TemporaryDirectory() as directory:
            return await outage(Path(directory), lease)

    for line in await asyncio.gather(story("stateful"), story("json"), away()):
        print(line)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--stop", type=float, default=60.0)
    given = parser.parse_args()
    asyncio.run(_all(given.lease, given.stop))


if __name__ == "__main__":
    main()
