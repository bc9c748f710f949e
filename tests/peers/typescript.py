"""Shows that the official TypeScript clients lose and double nothing when their calls are cut.

Every call reports progress; a proxy resets its connection once, at a random byte after the client
holds its first event id. The clients come back by themselves. A bare server is shown beside it.
With `--upstream` the same behind the proxy, which stands in front of that server.

Run:     python -m tests.peers.typescript [--calls 100] [--cache DIRECTORY]
             [--upstream everything|sdk]
         (needs node 20 and npm; the clients are installed into the cache directory once)
Expect:  with the middleware every line 0 lost, 0 doubled, 0 reordered and all results, for
         2025-11-25 and 2026-07-28 (which the everything-server does not speak), and exit code 0;
         on the bare server most calls fail.
"""

import argparse
import asyncio
import itertools
import json
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from mcp_persist_middleware.testing import Cut, FaultProxy, RandomCuts, cut_calls
from tests.peers.npm import install
from tests.proxied.processes import proxy, serving
from tests.proxied.upstreams import KINDS, NPM, Kind
from tests.support.processes import mcp_server, running

_PACKAGES = ("@modelcontextprotocol/sdk@~1.32.0", "@modelcontextprotocol/client@~2.4.0")
_SOURCES = Path(__file__).parent / "typescript"
_EVENTS, _DELAY = 30, 0.03
_RETRY_MS = 300
_PARALLEL = 10
_TIMEOUT = 30.0
_LONGEST = 600.0
_BARE_CALLS, _BARE_TIMEOUT = 10, 3.0


@dataclass(frozen=True, slots=True)
class Peer:
    """One client in one mode."""

    script: str
    mode: str
    version: str


PEERS = (
    Peer("sdk1.mjs", "legacy", "2025-11-25"),
    Peer("client2.mjs", "legacy", "2025-11-25"),
    Peer("client2.mjs", "auto", "2026-07-28"),
)


@dataclass(slots=True)
class Tally:
    """What the calls of one client saw, summed up."""

    calls: int = 0
    cuts: int = 0
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    results: int = 0
    versions: set[str] = field(default_factory=set)
    errors: set[str] = field(default_factory=set)

    def add(self, line: str) -> None:
        """Count one call."""
        seen = json.loads(line)
        progress = seen["progress"]
        self.calls += 1
        self.lost += len(set(range(1, _EVENTS + 1)) - set(progress))
        self.doubled += len(progress) - len(set(progress))
        self.reordered += sum(b < a for a, b in itertools.pairwise(progress))
        self.results += bool(seen["result"]) and not seen["error"]
        self.versions.add(str(seen["version"]))
        if seen["error"]:
            self.errors.add(seen["error"])

    def exact(self, calls: int) -> bool:
        """Each call was cut, and each of its events and its result came exactly once."""
        wrong = self.lost or self.doubled or self.reordered
        return not wrong and self.calls == self.results == calls == self.cuts

    def __str__(self) -> str:
        return (
            f"{self.calls} calls, {self.cuts} cuts: lost {self.lost}, doubled {self.doubled},"
            f" reordered {self.reordered}, results {self.results}"
        )


def install_clients(cache: Path) -> Path:
    """The directory that holds the scripts: they have to lie beside what they import."""
    install(cache, *_PACKAGES)
    for source in _SOURCES.glob("*.mjs"):
        shutil.copy(source, cache)
    return cache


async def _run(
    cache: Path, peer: Peer, port: int, calls: int, timeout: float, kind: Kind = KINDS["sdk"]
) -> Tally:
    numbers = [calls, _PARALLEL, timeout]
    url = f"http://127.0.0.1:{port}/mcp"
    called = {"name": kind.tool, "arguments": kind.arguments(_EVENTS, _DELAY)}
    process = await asyncio.create_subprocess_exec(
        "node",
        str(cache / peer.script),
        url,
        peer.mode,
        *map(str, numbers),
        json.dumps(called),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _LONGEST)
    finally:
        if process.returncode is None:
            process.kill()
    tally = Tally()
    for line in output.decode().splitlines():
        tally.add(line)
    return tally


async def _bare(cache: Path, peer: Peer, calls: int) -> Tally:
    """A bare server sends no ids, so the cuts fall behind a number of events."""
    chance = random.Random(calls)
    policy = cut_calls(lambda: Cut(events=chance.randrange(_EVENTS)))
    with tempfile.TemporaryDirectory() as directory:
        server = mcp_server(Path(directory), persist=False)
        async with running(server), FaultProxy(server.port, policy) as proxy:
            tally = await _run(cache, peer, proxy.port, calls, _BARE_TIMEOUT)
            tally.cuts = proxy.cuts
    return tally


async def _persisted(cache: Path, peer: Peer, calls: int) -> Tally:
    """Clients come back so soon that most calls are still running then."""
    policy = RandomCuts(seed=calls, events=_EVENTS)
    with tempfile.TemporaryDirectory() as directory:
        settings = {"retry_ms": _RETRY_MS, "modern_retry_ms": _RETRY_MS}
        server = mcp_server(Path(directory), settings=settings)
        async with running(server), FaultProxy(server.port, policy, on_end=policy.ended) as proxy:
            tally = await _run(cache, peer, proxy.port, calls, _TIMEOUT)
            tally.cuts = proxy.cuts
    return tally


async def _proxied(cache: Path, peer: Peer, calls: int, kind: Kind) -> Tally:
    """The same, with the server behind the proxy."""
    policy = RandomCuts(seed=calls, events=_EVENTS)
    given = {"RETRY_MS": str(_RETRY_MS), "MODERN_RETRY_MS": str(_RETRY_MS)}
    with tempfile.TemporaryDirectory() as name:
        upstream = kind.start(Path(name), NPM)
        front = proxy(Path(name), upstream.url, settings=given)
        async with (
            serving(upstream, front),
            FaultProxy(front.port, policy, on_end=policy.ended) as cutting,
        ):
            tally = await _run(cache, peer, cutting.port, calls, _TIMEOUT, kind)
            tally.cuts = cutting.cuts
    return tally


async def _behind_proxy(cache: Path, calls: int, kind: Kind) -> bool:
    right = True
    for peer in PEERS:
        tally = await _proxied(cache, peer, calls, kind)
        said = ", ".join(sorted(tally.versions))
        print(
            f"{peer.script:<12} {peer.mode:<6} {said}  {tally}", *sorted(tally.errors), sep="\n  "
        )
        right &= tally.exact(calls)
    return right


async def _all(cache: Path, calls: int) -> bool:
    right = True
    for peer in PEERS:
        name = f"{peer.script:<12} {peer.version}"
        print(f"{name}  bare  {await _bare(cache, peer, _BARE_CALLS)}", flush=True)
        tally = await _persisted(cache, peer, calls)
        print(f"{name}  ours  {tally}", *sorted(tally.errors), sep="\n  ", flush=True)
        right &= tally.exact(calls) and tally.versions == {peer.version}
    return right


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.peers.typescript")
    parser.add_argument("--calls", type=int, default=100)
    default = Path.home() / ".cache" / "mcp-persist-middleware-peers"
    parser.add_argument("--cache", type=Path, default=default)
    parser.add_argument("--upstream", choices=KINDS, help="the server behind the proxy")
    given = parser.parse_args()
    cache = install_clients(given.cache)
    if given.upstream is None:
        right = asyncio.run(_all(cache, given.calls))
    else:
        right = asyncio.run(_behind_proxy(cache, given.calls, KINDS[given.upstream]))
    print("exactly once" if right else "NOT exactly once")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
