"""Shows that clients lose and double nothing behind the proxy when their calls are cut.

The proxy stands in front of the official TypeScript everything-server. Each client of the matrix
calls its tool that reports progress; a relay resets each call's connection once, at a random byte
after the client holds its first event id.

Run:     python -m tests.proxied.cuts [--calls 100] [--upstream everything] [--replicas 1]
         (needs node 20 and npm; packages and environments are installed into caches once)
Expect:  for every client as many cuts as calls, 0 lost, 0 doubled, and exit code 0.
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from tests.matrix.clients import Work
from tests.matrix.environments import REQUIREMENTS, prepare, versions
from tests.matrix.run import CACHE, CLIENTS, Cell, Matrix, print_headings, run_cell
from tests.proxied.processes import proxy, serving
from tests.proxied.upstreams import KINDS, NPM

_RETRY_MS = 500


async def _all(matrix: Matrix, kind: str, replicas: int, npm: Path) -> bool:
    with tempfile.TemporaryDirectory(prefix="proxied-") as name:
        directory = Path(name)
        behind = [KINDS[kind].start(directory, npm) for _ in range(replicas)]
        settings = {name.upper(): str(value) for name, value in matrix.settings.items()}
        front = proxy(directory, *(each.url for each in behind), settings=settings)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(serving(*behind, front))
            print_headings()
            cells = [Cell(kind, client, 1 + number) for number, client in enumerate(CLIENTS)]
            passed = [await run_cell(matrix, front.port, cell) for cell in cells]
        if text := front.log.read_text():
            print("--- the proxy says", text[-2000:], sep="\n")
    return all(passed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.proxied.cuts")
    parser.add_argument("--calls", type=int, default=100, help="calls of each client")
    parser.add_argument("--events", type=int, default=12, help="progress events of each call")
    parser.add_argument("--delay", type=float, default=0.1, help="seconds between them")
    parser.add_argument("--upstream", choices=KINDS, default="everything")
    parser.add_argument("--replicas", type=int, default=1, help="servers behind the proxy")
    parser.add_argument("--npm", type=Path, default=NPM, help="where packages of npm go")
    parser.add_argument("--envs", type=Path, default=CACHE / "mcp-persist-middleware" / "matrix")
    given = parser.parse_args()
    pythons = {name: prepare(given.envs, name) for name in REQUIREMENTS}
    print("; ".join(versions(python) for python in pythons.values()))
    matrix = Matrix(
        work=Work(given.calls, given.events, given.delay, tool=KINDS[given.upstream].tool),
        cuts=1,
        seed=1,
        settings={"retry_ms": _RETRY_MS, "modern_retry_ms": _RETRY_MS, "resume_rotate": 2},
        pythons=pythons,
        gate=asyncio.Semaphore(1),
    )
    right = asyncio.run(_all(matrix, given.upstream, given.replicas, given.npm))
    print("exactly once" if right else "NOT exactly once")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
