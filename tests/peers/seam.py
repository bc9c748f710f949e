"""Shows that no event is lost, doubled or reordered where replay meets the live stream.

Calls that report 2,000 events as fast as they go and 600 at 250/s, three in parallel, are read by
a raw client that resets its connection every 25, 12 and 1 events and comes back with its cursor.

Run:     python -m tests.peers.seam
         python -m tests.peers.seam --competitor PYTHON
         (PYTHON: an interpreter with `mcp-persist==2.2.0`, uvicorn and aiosqlite installed)
Expect:  ours 0 lost, 0 doubled, 0 reordered on every line, at 2025-11-25 and at 2026-07-28, and
         exit code 0; the competitor loses some where its replay ends and its live stream begins.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.peers.cutting import Outcome, count_through_cuts, summary
from tests.support.processes import ServerProcess, running
from tests.support.session import HANDSHAKE, MODERN, RawSession

_PARALLEL = 3
_LOADS = ((2_000, 0.0), (600, 250.0))
_EVERY = (25, 12, 1)
_LONGEST = 300.0


def _server(variant: str, python: str, directory: Path) -> ServerProcess:
    environ = {"PEER_VARIANT": variant, "PEER_DATABASE": str(directory / f"{variant}.db")}
    log = directory / f"{variant}.log"
    return ServerProcess("tests.peers.apps:app()", log, environ=environ, python=python)


async def _call(port: int, version: str, path: str, load: tuple[int, float], every: int) -> Outcome:
    session = await RawSession.open(port, version, path=path)
    return await count_through_cuts(session, *load, every)


async def _line(
    server: ServerProcess, variant: str, version: str, load: tuple[int, float], every: int
) -> bool:
    path = "/mcp/" if variant == "competitor" else "/mcp"
    began = time.monotonic()
    async with asyncio.timeout(_LONGEST):
        outcomes = await asyncio.gather(
            *(_call(server.port, version, path, load, every) for _ in range(_PARALLEL))
        )
    rate = f"{load[1]:.0f}/s" if load[1] else "flat out"
    print(
        f"{variant:<10} {version}  {load[0]:>5} {rate:<8} every {every:>2}: {summary(outcomes)}"
        f" ({time.monotonic() - began:.1f} s)",
        flush=True,
    )
    return all(outcome.exact for outcome in outcomes)


async def _variant(variant: str, python: str, versions: tuple[str, ...]) -> bool:
    exact = True
    with tempfile.TemporaryDirectory() as directory:
        async with running(_server(variant, python, Path(directory))) as server:
            for version in versions:
                for load in _LOADS:
                    for every in _EVERY:
                        exact &= await _line(server, variant, version, load, every)
    return exact


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.peers.seam")
    parser.add_argument("--competitor", metavar="PYTHON", help="measure mcp-persist as well")
    parser.add_argument("--only-competitor", action="store_true")
    arguments = parser.parse_args()
    exact = True
    if not arguments.only_competitor:
        exact = asyncio.run(_variant("ours", sys.executable, (HANDSHAKE, MODERN)))
        print("exactly once" if exact else "NOT exactly once")
    if arguments.competitor:
        asyncio.run(_variant("competitor", arguments.competitor, (HANDSHAKE,)))
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
