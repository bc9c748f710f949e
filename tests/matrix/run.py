"""Every client against every server, each call cut: `python -m tests.matrix.run --help`.

One uvicorn process for each server, with the middleware on a SQLite file; for each client a
process and a cutting proxy. Ends with 0 when every progress event and result came exactly once;
with `--cuts 2` when nothing was lost, and the table says what came twice.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mcp_persist_middleware.testing import FaultProxy, RandomCuts
from tests.matrix.clients import CALL_TIMEOUT, Outcome, Work
from tests.matrix.environments import REQUIREMENTS, prepare, versions
from tests.matrix.score import Score, score
from tests.support.processes import ROOT, mcp_server, running

CLIENTS = {
    "mcp.Client 2.x": "v2",
    "ClientSession 2.x": "v2",
    "ClientSession 1.x": "v1",
    "fastmcp.Client": "fm",
}
SERVERS = {"SDK 2.x": ("v2", "sdk"), "SDK 1.x": ("v1", "sdk"), "FastMCP": ("fm", "fastmcp")}
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
_COLUMN = "{:<10} {:<18} {:>5} {:>5} {:>8} {:>6} {:>5} {:>8} {:>6}  {}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One client against one server."""

    server: str
    client: str
    seed: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """A run's parameters."""

    work: Work
    cuts: int
    seed: int
    settings: dict[str, object]
    pythons: dict[str, str]
    gate: asyncio.Semaphore

    def passed(self, result: Score) -> bool:
        """One cut: exactly once. A second one makes clients see events twice, but lose none."""
        if self.cuts == 1:
            return result.exactly_once(self.work)
        return result.nothing_lost(self.work)


async def run(matrix: Matrix, servers: list[str], clients: list[str]) -> bool:
    """Run all cells and print them as they come; true when all of them passed."""
    print_headings()
    results = await asyncio.gather(*(_server(matrix, name, clients) for name in servers))
    return all(map(all, results))


def print_headings() -> None:
    """The first line of the table."""
    headings = ("calls", "cuts", "progress", "result", "lost", "doubled", "s", "")
    print(_COLUMN.format("server", "client", *headings), flush=True)


async def _server(matrix: Matrix, name: str, clients: list[str]) -> list[bool]:
    environment, kind = SERVERS[name]
    with tempfile.TemporaryDirectory(prefix="matrix-") as directory:
        server = mcp_server(
            Path(directory),
            server=kind,
            python=matrix.pythons[environment],
            settings=matrix.settings,
        )
        async with running(server):
            first = matrix.seed + 100 * list(SERVERS).index(name)
            cells = [Cell(name, client, first + i) for i, client in enumerate(clients)]
            passed = await asyncio.gather(*(run_cell(matrix, server.port, cell) for cell in cells))
        if trouble := server.complaints:
            print(f"--- the {name} server complains", *trouble, sep="\n", flush=True)
    return [*passed, not trouble]


async def run_cell(matrix: Matrix, port: int, cell: Cell) -> bool:
    """Run one client against the server at a port, print its line; whether it passed."""
    policy = RandomCuts(cell.seed, matrix.work.events, matrix.cuts)
    async with matrix.gate, FaultProxy(port, policy, on_end=policy.ended) as proxy:
        begin = time.monotonic()
        url = f"http://127.0.0.1:{proxy.port}/mcp"
        outcomes, error = await _client(matrix, cell.client, url)
        result = score(outcomes, matrix.work, proxy.cuts)
        result.error = error or result.error
        passed = matrix.passed(result)
        doubled = f"{result.doubled}" + (f"/{result.calls_doubled}" if result.doubled else "")
        row = (result.calls, result.cuts, result.events, result.results, result.lost, doubled)
        seconds = round(time.monotonic() - begin, 1)
        note = "ok" if passed else f"FAILED (seed {cell.seed}) {result.error}"
        note += f" {result.disordered} out of order" if result.disordered else ""
        print(_COLUMN.format(cell.server, cell.client, *row, seconds, note), flush=True)
    return passed


async def _client(matrix: Matrix, name: str, url: str) -> tuple[list[Outcome], str]:
    """The outcomes of one client process, and why it failed if it did."""
    work = matrix.work
    numbers = (work.calls, work.events, work.delay, work.at_once)
    given = [*map(str, numbers), work.tool]
    process = await asyncio.create_subprocess_exec(
        matrix.pythons[CLIENTS[name]],
        "-m",
        "tests.matrix.clients",
        name,
        url,
        *given,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    rounds = -(-work.calls // work.at_once)
    try:
        async with asyncio.timeout(rounds * CALL_TIMEOUT):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return [], "the client did not end"
    if process.returncode:
        return [], err.decode(errors="replace")[-2000:]
    return [Outcome(**outcome) for outcome in json.loads(out)], ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100, help="calls of each client")
    parser.add_argument("--events", type=int, default=12, help="progress events of each call")
    parser.add_argument("--delay", type=float, default=0.1, help="seconds between them")
    parser.add_argument("--at-once", type=int, default=10, help="calls at a time of one client")
    parser.add_argument("--jobs", type=int, default=4, help="clients at a time")
    parser.add_argument(
        "--cuts", type=int, default=1, choices=(1, 2), help="abrupt cuts of each call"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--retry-ms", default="500", help="clients wait so long (default 500)")
    parser.add_argument("--rotate", default="2", help="resume_rotate, or none")
    parser.add_argument("--server", action="append", choices=SERVERS)
    parser.add_argument("--client", action="append", choices=CLIENTS)
    parser.add_argument("--envs", type=Path, default=CACHE / "mcp-persist-middleware" / "matrix")
    return parser.parse_args()


def main() -> int:
    given = _arguments()
    servers, clients = given.server or list(SERVERS), given.client or list(CLIENTS)
    needed = {SERVERS[name][0] for name in servers} | {CLIENTS[name] for name in clients}
    pythons = {name: prepare(given.envs, name) for name in REQUIREMENTS if name in needed}
    print("; ".join(versions(python) for python in pythons.values()))
    matrix = Matrix(
        work=Work(given.calls, given.events, given.delay, given.at_once),
        cuts=given.cuts,
        seed=given.seed,
        settings={
            "retry_ms": given.retry_ms,
            "modern_retry_ms": given.retry_ms,
            "resume_rotate": given.rotate,
        },
        pythons=pythons,
        gate=asyncio.Semaphore(given.jobs),
    )
    return 0 if asyncio.run(run(matrix, servers, clients)) else 1


if __name__ == "__main__":
    sys.exit(main())
