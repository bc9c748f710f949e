"""Shows that a rolling restart of two workers loses no call and runs none twice.

Official Python clients behind a proxy without stickiness have 50 calls of 5 s in flight when the
first worker gets its SIGTERM, and 50 others when, after its restart, the second one does.

Run:     python -m tests.peers.rolling [--store sqlite] [--calls 50]
Expect:  all results arrive, with all their progress, no call ran twice; exit code 0.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from mcp_persist_middleware.testing import FaultProxy, ProxiedRequest
from tests.peers import mixed_client
from tests.peers.mixed import worker
from tests.peers.mixed_client import Made
from tests.support.processes import ServerProcess, running
from tests.support.scripted import until
from tests.support.started import started
from tests.support.stores import STORES, Store

_CLIENTS = 10
_STEPS = 10


async def rolling(store: Store, directory: Path, calls: int, seconds: float) -> list[str]:
    """Two restarts, each in the middle of so many calls; what is wrong afterwards."""
    ran = directory / "ran"
    ran.touch()
    workers = [worker(store, directory, number) for number in range(2)]
    made: list[Made] = []
    async with contextlib.AsyncExitStack() as stack:
        for each in workers:
            await stack.enter_async_context(running(each))
        ports = [each.port for each in workers]

        def route(_: ProxiedRequest) -> list[int]:
            return random.sample(ports, len(ports))

        proxy = await stack.enter_async_context(FaultProxy(route=route))
        url = f"http://127.0.0.1:{proxy.port}/mcp"
        sessions = [
            await stack.enter_async_context(mixed_client.connected(url)) for _ in range(_CLIENTS)
        ]
        for number, each in enumerate(workers):
            batch = [Made(f"{number}-{n}", "work", _STEPS, seconds / _STEPS) for n in range(calls)]
            made += batch
            running_calls = asyncio.gather(
                *(mixed_client.call(sessions[n % _CLIENTS], m) for n, m in enumerate(batch))
            )
            await until(lambda batch=batch: all(m.progress for m in batch), 20)
            print(f"{calls} calls are running; {await _restart(each)}", flush=True)
            await running_calls
        complaints = [line for each in workers for line in each.complaints]
    faults = [fault for each in made for fault in each.faults] + complaints
    times = Counter(ran.read_text().split("\n"))
    faults += [
        f"{m.nonce} ran {times[f'run {m.nonce}']} times"
        for m in made
        if times[f"run {m.nonce}"] != 1
    ]
    return faults


async def _restart(each: ServerProcess) -> str:
    began = time.monotonic()
    await each.terminate(30)
    ended = time.monotonic() - began
    await each.start()
    return f"a worker ended in {ended:.1f} s and was back after {time.monotonic() - began:.1f} s"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.peers.rolling", description=__doc__)
    parser.add_argument("--store", choices=sorted(STORES), default="sqlite")
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        started(given.store, Path(directory)) as store,
    ):
        faults = asyncio.run(rolling(store, Path(directory), given.calls, given.seconds))
    print(*faults[:20], sep="\n")
    print(f"{2 * given.calls} calls of {given.seconds:g} s over 2 restarts: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
