"""Shows that one proxy carries 2,000 streams at once, in bounded memory.

As many clients, each with a session and a connection of its own, run a call that reports progress;
then they leave, and come once more.

Run:     python -m tests.proxied.crowd [--streams 2000]
Expect:  every event and every result arrives, the second crowd costs no memory that the first did
         not, one request more than the proxy's room is answered with 503, and exit code 0.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.contenders import Contender, Role
from tests.benchmarks.report import percentile
from tests.benchmarks.servers import Server
from tests.benchmarks.wire import Client
from tests.proxied.processes import Command, by_hand, proxy, serving

_EVENTS, _RATE = 30, 0.5
_AT_ONCE = 20
_MORE = 1.1
"""So much memory may a second crowd cost over the first."""


async def _peak(process: Command, over: asyncio.Task[None]) -> int:
    most = 0
    while not over.done():
        most = max(most, process.resident())
        await asyncio.sleep(0.2)
    return most


async def _crowd(server: Server, streams: int) -> None:
    """Come, call at once, and read everything; few come at a time, so that none waits for long."""
    opening = asyncio.Semaphore(_AT_ONCE)
    under_way, most = 0, 0

    async def one() -> list[tuple[int, int]]:
        nonlocal under_way, most
        async with opening:
            client = await Client.open(server.endpoint)
        async with client:
            under_way += 1
            most = max(most, under_way)
            answer = await client.call("paced", n=_EVENTS, rate=_RATE)
            under_way -= 1
        return answer.check(_EVENTS, ids=True).events()

    used = server.cpu_us()
    seen = await asyncio.gather(*(one() for _ in range(streams)))
    used = (server.cpu_us() - used) / (streams * _EVENTS)
    ages = [(here - made) / 1e6 for events in seen for made, here in events]
    middle, late = percentile(ages, 0.5), percentile(ages, 0.99)
    print(
        f"{most} of {streams} streams at once: all {len(ages):,} events and every result; age p50 "
        f"{middle:.1f} ms, p99 {late:.1f} ms; {used:.0f} µs of the proxy's processor for each"
    )


async def _refuses(server: Server, room: int) -> bool:
    """Whether one call more than there is room for is refused at once, and is not when others
    have ended."""
    clients = [await Client.open(server.endpoint) for _ in range(room + 1)]
    for client in clients[:room]:
        client.start("paced", n=_EVENTS, rate=4.0)
        await client.first_id()
    refused = await clients[room].call("quick")
    again = refused
    for _ in range(100):
        await asyncio.sleep(0.1)
        if (again := await clients[room].call("quick")).status == 200:
            break
    print(
        f"room for {room}: one more gets {refused.status}, and {again.status} when they have ended"
    )
    for client in clients:
        await client.__aexit__(None, None, None)
    return (refused.status, again.status) == (503, 200)


async def _all(streams: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="proxied-") as name:
        directory = Path(name)
        upstream = by_hand(directory)
        front = proxy(directory, upstream.url, more=("--max-requests", str(streams + 100)))
        async with serving(upstream, front):
            server = Server(Contender("proxy", Role.OURS), front.port, front.pid)
            print(f"proxy at rest: {front.resident() >> 20} MB")
            peaks = []
            for _ in range(2):
                crowd = asyncio.create_task(_crowd(server, streams))
                peaks.append(await _peak(front, crowd))
                await crowd
                print(f"at most {peaks[-1] >> 20} MB, afterwards {front.resident() >> 20} MB")
        small = proxy(directory, upstream.url, more=("--max-requests", "50"))
        async with serving(upstream, small):
            server = Server(Contender("proxy", Role.OURS), small.port, small.pid)
            refuses = await _refuses(server, 50)
    return refuses and peaks[1] <= _MORE * peaks[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.proxied.crowd")
    parser.add_argument("--streams", type=int, default=2_000)
    given = parser.parse_args()
    # Three sockets for each stream, in three processes.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    right = asyncio.run(_all(given.streams))
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
