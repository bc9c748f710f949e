"""Measures what the proxy adds: beside its upstream alone and beside mcp-persist's proxy.

One upstream by hand; each way to it is measured in every round, the order turned around each time.
The first round is thrown away.

Run:     python -m tests.proxied.rates [--competitor PYTHON] [--rounds 5] [--dir DIRECTORY]
         (PYTHON is an interpreter that has mcp-persist 2.2; both proxies keep a SQLite file)
Expect:  the targets beside each line, and exit code 0 when all are met.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.calls import calls
from tests.benchmarks.contenders import Contender, Role
from tests.benchmarks.servers import Server
from tests.benchmarks.streams import flow
from tests.proxied.processes import Command, by_hand, proxy, serving

_DIRECT, _OURS, _PEER = "upstream alone", "proxy", "mcp-persist proxy"


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of a round, and what it should be."""

    name: str
    unit: str
    take: Callable[[Server], Awaitable[float]]
    target: str
    is_met: Callable[[dict[str, float]], bool]


async def _rate(server: Server, streams: int, n: int) -> float:
    return (await flow(server, streams, "burst", n=n)).rate


async def _age(server: Server, streams: int, n: int, rate: float) -> float:
    return (await flow(server, streams, "paced", n=n, rate=rate)).age_p50


async def _call(server: Server) -> float:
    return (await calls(server, 400)).p50


def _times_the_peers(found: dict[str, float]) -> bool:
    return _PEER not in found or found[_OURS] >= 8 * found[_PEER]


def _added(most: float) -> Callable[[dict[str, float]], bool]:
    return lambda found: found[_OURS] - found[_DIRECT] <= most


MEASURES = (
    Measure(
        "1 stream flat out",
        "frames/s",
        lambda server: _rate(server, 1, 4_000),
        ">= 8 x mcp-persist",
        _times_the_peers,
    ),
    Measure(
        "16 streams flat out",
        "frames/s",
        lambda server: _rate(server, 16, 400),
        ">= 8 x mcp-persist",
        _times_the_peers,
    ),
    Measure(
        "a frame at 1 x 200/s, p50",
        "ms",
        lambda server: _age(server, 1, 300, 200.0),
        "<= +0.6 ms",
        _added(0.6),
    ),
    Measure("a call that returns at once, p50", "ms", _call, "<= +1.5 ms", _added(1.5)),
    Measure(
        "a frame at 64 x 20/s, p50",
        "ms",
        lambda server: _age(server, 64, 60, 20.0),
        "<= +3 ms",
        _added(3.0),
    ),
)


def _competitor(python: Path, directory: Path, upstream: Command) -> Command:
    arguments = [str(python.parent / "mcp-persist-proxy"), "--port", "{port}", "--ttl", "86400"]
    arguments += ["--upstream", f"http://127.0.0.1:{upstream.port}", "--backend", "sqlite"]
    arguments += ["--url", str(directory / "peer.db"), "--host", "127.0.0.1"]
    return Command(arguments, directory / "peer.log")


async def _taken(measure: Measure, ways: Sequence[Server], rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {way.contender.name: [] for way in ways}
    for number in range(rounds + 1):
        for way in ways if number % 2 else reversed(ways):
            value = await measure.take(way)
            if number:
                taken[way.contender.name].append(value)
    return taken


def _printed(measure: Measure, taken: dict[str, list[float]]) -> bool:
    middle = {name: statistics.median(values) for name, values in taken.items()}
    met = measure.is_met(middle)
    parts = []
    for name, value in middle.items():
        low, high = min(taken[name]), max(taken[name])
        parts.append(f"{name} {value:,.2f} ({low:,.2f} to {high:,.2f})")
    verdict = "met" if met else "NOT met"
    print(f"{measure.name}, {measure.unit}: {'; '.join(parts)}. {measure.target}: {verdict}")
    return met


async def _all(competitor: Path | None, directory: Path, rounds: int) -> bool:
    upstream = by_hand(directory)
    front = proxy(directory, upstream.url)
    commands = {_DIRECT: upstream, _OURS: front}
    if competitor is not None:
        commands[_PEER] = _competitor(competitor, directory, upstream)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(*commands.values()))
        ways = [
            # What has a role of a server's own is spoken to at /mcp, and may send ids.
            Server(Contender(name, Role.BARE if name == _DIRECT else Role.OURS), it.port, it.pid)
            for name, it in commands.items()
        ]
        return all([_printed(each, await _taken(each, ways, rounds)) for each in MEASURES])


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.proxied.rates")
    parser.add_argument("--competitor", type=Path, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5, help="how many are counted")
    parser.add_argument("--dir", type=Path, help="where the databases go (default: temporary)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="proxied-", dir=given.dir) as name:
        right = asyncio.run(_all(given.competitor, Path(name), given.rounds))
    print("all targets met" if right else "NOT all targets met")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
