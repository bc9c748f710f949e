"""Measures how soon 500 idle session streams end when uvicorn, hypercorn and granian are stopped.

Run:     python -m tests.peers.idle [--streams 500]
         (needs the test environment: hypercorn and granian beside uvicorn)
Expect:  on each server all streams end in order, with a `retry`, within 2 s of the SIGTERM, and the
         process with its usual code; exit code 0.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.peers.servers import _COMMANDS, _accepting, _port, _started
from tests.support.session import RawSession
from tests.support.sse_client import Response

_LIMIT, _AT_ONCE, _EXIT = 2.0, 20, 20.0


async def _ends(response: Response) -> tuple[float, bool]:
    """When a body ended, and whether it did in order and asked its client to come back."""
    try:
        frames = [frame async for frame in response.frames(60)]
    except (OSError, asyncio.IncompleteReadError):
        return time.monotonic(), False
    return time.monotonic(), bool(frames) and frames[-1].retry is not None


async def idle(server: str, directory: Path, streams: int) -> bool:
    """Stop one server under so many idle streams."""
    port = _port()
    async with _started(server, port, directory, {}) as process:
        await _accepting(port, process)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def opened() -> Response:
            async with gate:
                return await (await RawSession.open(port)).get()

        responses = await asyncio.gather(*(opened() for _ in range(streams)))
        reading = [asyncio.create_task(_ends(response)) for response in responses]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        process.terminate()
        ends = sorted(await asyncio.gather(*reading))
        code = await asyncio.wait_for(process.wait(), _EXIT)
        exited = time.monotonic() - began
    orderly = sum(in_order for _, in_order in ends)
    last = ends[-1][0] - began
    middle = ends[len(ends) // 2][0] - began
    right = orderly == streams and last < _LIMIT and code in (0, -signal.SIGTERM)
    print(
        f"{server:<10} {orderly} of {streams} streams ended in order, half of them after "
        f"{middle:.2f} s, the last after {last:.2f} s; the process after {exited:.2f} s ({code}): "
        f"{'as expected' if right else 'NOT as expected'}",
        flush=True,
    )
    return right


async def _all(streams: int) -> bool:
    right = True
    for server in _COMMANDS:
        with tempfile.TemporaryDirectory() as directory:
            right &= await idle(server, Path(directory), streams)
    return right


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.peers.idle", description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    return 0 if asyncio.run(_all(parser.parse_args().streams)) else 1


if __name__ == "__main__":
    sys.exit(main())
