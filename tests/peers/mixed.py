"""Many clients, several workers, one store, every request to any worker, connections cut at random.

Official Python clients (2.x, a handshake session each) make mixed calls: progress, elicitation,
sampling, cancellation. A proxy sends each request to a random worker and resets a part of the
connections at a random byte after the client holds an event id. The workers note each execution.

Run:     python -m tests.peers.mixed [--store sqlite] [--workers 2] [--clients 20] [--calls 100]
         [--store-timeout 5] [--typescript 0] (so many of the clients are TypeScript: node 20 and
         npm; they are installed into the --cache directory once)
Expect:  exit code 0: each call executed once and answered once, its progress gap-free and in order,
         what a session has in its worker's memory consistent, and nothing left open in the store.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from mcp_persist_middleware.model import EventKind, StreamKind
from mcp_persist_middleware.testing import Cut, FaultProxy, Plan, ProxiedRequest
from tests.peers import mixed_client
from tests.peers.mixed_client import Made
from tests.peers.pulse import Pulse
from tests.peers.typescript import install_clients
from tests.support.processes import ServerProcess, running
from tests.support.started import started
from tests.support.stores import STORES, Store

_RETRY_MS = 300
_CUT_OF_CALLS, _CUT_OF_STREAMS = 0.5, 0.3
_MOST_EVENTS, _WITHIN_EVENT = 8, 120
_ENDS_SECONDS = 15.0
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    workers: int = 2
    clients: int = 20
    calls: int = 100
    seed: int = 0
    typescript: int = 0
    """How many of the clients are TypeScript, of both generations in turn."""
    scripts: Path | None = None
    """Where those are installed."""
    seconds: float = 600.0
    """When it has to be over."""
    store_timeout: float = 5.0
    """Of the workers."""


@dataclass(slots=True)
class Report:
    """What came of it."""

    size: Size
    made: list[Made] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    cuts: int = 0
    requests: int = 0
    asked: int = 0
    """Requests of JSON-RPC; each is answered with a stream."""
    crossed: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    """The longest that anybody waited who asked the store for nothing."""
    said: list[str] = field(default_factory=list)
    """What the workers had to say."""

    def __str__(self) -> str:
        kinds = Counter(each.tool for each in self.made)
        mix = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return (
            f"{self.size.workers} workers, {self.size.clients} clients, {len(self.made)} calls "
            f"({mix}), {self.requests} requests, {self.cuts} cut, {self.crossed} calls asked of "
            f"another worker than ran them, {self.seconds:.0f} s, a bare SELECT took up to "
            f"{self.slowest:.2f} s: {len(self.faults)} faults"
        )


class _Roulette:
    """Sends requests anywhere, and cuts what a client can come back to."""

    def __init__(self, ports: Sequence[int], seed: int) -> None:
        self._ports = list(ports)
        self._random = random.Random(seed)

    def route(self, _: ProxiedRequest) -> list[int]:
        return self._random.sample(self._ports, len(self._ports))

    def policy(self, request: ProxiedRequest) -> Plan | None:
        """A resumed connection is left whole: the client would ask for its events again."""
        if request.rpc_method == "tools/call":
            share, events = _CUT_OF_CALLS, self._random.randrange(_MOST_EVENTS)
        elif request.method == "GET" and "last-event-id" not in request.headers:
            share, events = _CUT_OF_STREAMS, 0
        else:
            return None
        if self._random.random() >= share:
            return None
        return Plan(cut=Cut(ids=1, events=events, size=self._random.randrange(_WITHIN_EVENT)))


def worker(store: Store, directory: Path, number: int, store_timeout: float = 5.0) -> ServerProcess:
    """One worker on the store, not started."""
    environ = store.environ | {
        "MCP_PERSIST_RETRY_MS": str(_RETRY_MS),
        "MCP_PERSIST_STORE_TIMEOUT": str(store_timeout),
        "TEST_RAN": str(directory / "ran"),
    }
    log = directory / f"worker{number}.log"
    return ServerProcess("tests.peers.mixed_app:app()", log, environ=environ)


async def mixed(store: Store, directory: Path, size: Size) -> Report:
    """Run it, and look at what is left."""
    (directory / "ran").touch()
    report, began = Report(size), time.monotonic()
    workers = [
        worker(store, directory, number, size.store_timeout) for number in range(size.workers)
    ]
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(running(each)) for each in workers))
        roulette = _Roulette([each.port for each in workers], size.seed)
        proxy = FaultProxy(policy=roulette.policy, route=roulette.route)
        async with proxy:
            with Pulse(store.url) as pulse:
                await _clients(f"http://127.0.0.1:{proxy.port}/mcp", size, report)
        report.seconds, report.slowest = time.monotonic() - began, pulse.worst
        report.cuts, report.requests = proxy.cuts, len(proxy.exchanges)
        report.asked = sum(_asks(exchange.request) for exchange in proxy.exchanges)
        await _executed(directory / "ran", report)
        report.crossed = _crossed(proxy, report.made, {each.port: each.pid for each in workers})
        await asyncio.gather(*(each.terminate(30) for each in workers))
        await _stored(store, report)
    for each in workers:
        report.faults += [f"a worker complains: {line}" for line in each.complaints]
        report.said += [line for line in each.log.splitlines() if not line.startswith("INFO:")]
    return report


async def _clients(url: str, size: Size, report: Report) -> None:
    async def client(number: int) -> None:
        name = f"c{number}"
        try:
            made = await _one(url, size, number)
        except Exception as error:
            report.faults.append(f"client {name} died: {_first(error)!r}")
        else:
            report.made += made
            report.faults += [fault for each in made for fault in each.faults]
            report.faults += _consistent(name, made)

    try:
        async with asyncio.timeout(size.seconds):
            await asyncio.gather(*(client(number) for number in range(size.clients)))
    except TimeoutError:
        report.faults.append(f"not over in {size.seconds} s")


async def _one(url: str, size: Size, number: int) -> list[Made]:
    if number >= size.typescript:
        return await mixed_client.run(url, f"c{number}", size.calls, size.seed)
    assert size.scripts is not None
    script = size.scripts / ("sdk1.mjs", "client2.mjs")[number % 2]
    return await mixed_client.run_typescript(url, script, f"c{number}", size.calls, size.seed)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _consistent(name: str, made: list[Made]) -> list[str]:
    """Whether one session in one memory has counted all calls, each as one."""
    told = [each.told for each in made if each.told]
    counts = Counter(each["calls"] for each in told)
    faults = []
    if twice := [number for number, times in counts.items() if times > 1]:
        faults.append(f"client {name}: two calls were number {twice}")
    if made[-1].told.get("calls") != len(made):
        faults.append(f"client {name}: {len(made)} calls, counted {made[-1].told.get('calls')}")
    homes = {(each["session"], each["generation"], each["worker"]) for each in told}
    if len(homes) != 1:
        faults.append(f"client {name}: its session was in {sorted(homes)}")
    return faults


async def _executed(ran: Path, report: Report) -> None:
    """Each call ran once; those that were cancelled heard of it, in a moment at the latest."""
    deadline = time.monotonic() + _ENDS_SECONDS
    expected = {f"cancelled {each.nonce}" for each in report.made if each.tool == "wait"}
    while expected - (lines := Counter(ran.read_text().splitlines())).keys():
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.05)
    expected |= {f"run {each.nonce}" for each in report.made}
    for line in sorted(expected | lines.keys()):
        if lines[line] != (line in expected):
            report.faults.append(f"{line!r}: {lines[line]} times")


def _asks(request: ProxiedRequest) -> bool:
    """Whether this is a request that has an answer, such as a call."""
    return request.method == "POST" and {"id", "method"} <= json.loads(request.body).keys()


def _crossed(proxy: FaultProxy, made: list[Made], pids: dict[int, int]) -> int:
    """How many calls were asked of another worker than ran them."""
    ran = {each.nonce: each.told.get("worker") for each in made}
    crossed = 0
    for exchange in proxy.exchanges:
        if exchange.request.rpc_method == "tools/call":
            nonce = exchange.request.body.partition(b'"nonce":"')[2].partition(b'"')[0].decode()
            worker = ran.get(nonce)
            crossed += worker is not None and worker != pids[exchange.target]
    return crossed


_LEFT = {
    "streams are open": "SELECT count(*) FROM mcp_stream WHERE ended_at IS NULL",
    "streams have gaps": "SELECT count(*) FROM (SELECT stream FROM mcp_event GROUP BY stream"
    " HAVING min(sequence) <> 1 OR max(sequence) <> count(*)) gaps",
    "relayed requests wait": "SELECT count(*) FROM mcp_inbox WHERE state = 0",
}
_ANSWERS = (
    "SELECT count(e.stream) FROM mcp_stream s LEFT JOIN mcp_event e"
    " ON e.stream = s.id AND e.kind = :response WHERE s.kind = :post GROUP BY s.id"
)


async def _stored(store: Store, report: Report) -> None:
    """Nothing is left open, and the stream of each call has one answer."""
    engine = create_async_engine(store.url)
    try:
        async with engine.connect() as connection:
            for what, sql in _LEFT.items():
                if count := (await connection.execute(text(sql))).scalar_one():
                    report.faults.append(f"{count} {what}")
            kinds = {"post": StreamKind.POST, "response": int(EventKind.RESPONSE)}
            answers = Counter((await connection.execute(text(_ANSWERS), kinds)).scalars())
    finally:
        await engine.dispose()
    if answers.keys() != {1}:
        report.faults.append(f"calls by their number of answers: {dict(answers)}")
    if answers[1] != report.asked:
        report.faults.append(f"{answers[1]} are answered in the store, {report.asked} were asked")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.peers.mixed", description=__doc__)
    parser.add_argument("--store", choices=sorted(STORES), default="sqlite")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=570.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--typescript", type=int, default=0, help="so many clients are TypeScript")
    parser.add_argument("--store-timeout", type=float, default=5.0, help="of the workers")
    default = Path.home() / ".cache" / "mcp-persist-middleware-peers"
    parser.add_argument("--cache", type=Path, default=default)
    given = parser.parse_args()
    scripts = install_clients(given.cache / "npm") if given.typescript else None
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    print(f"{given.store}, seed {given.seed}", flush=True)
    size = Size(
        given.workers,
        given.clients,
        given.calls,
        given.seed,
        given.typescript,
        scripts,
        given.seconds,
        given.store_timeout,
    )
    with (
        tempfile.TemporaryDirectory() as directory,
        started(given.store, Path(directory)) as store,
    ):
        report = asyncio.run(mixed(store, Path(directory), size))
    for fault in report.faults[:_SHOWN]:
        print(f"  {fault}")
    for line, times in Counter(report.said).most_common(_SHOWN if report.faults else 0):
        print(f"  {times} x said: {line[:300]}")
    print(report)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
