"""What an operator sees, drawn from what real workers export: the trace of one call that was cut
twice and resumed on another worker, and the dashboard filled by a load.

    python -m tests.peers.observed examples/guides
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from opentelemetry import propagate, trace

from tests.peers.observed_app import observe
from tests.peers.pictured import dashboard_picture, trace_picture
from tests.support.processes import ServerProcess, running
from tests.support.session import RawSession, last_id
from tests.support.sse_client import request

_LOAD_SECONDS, _CLIENTS = 25.0, 12


@asynccontextmanager
async def workers(directory: Path) -> AsyncIterator[list[ServerProcess]]:
    """Two of them on one store."""
    url = f"sqlite+aiosqlite:///{directory / 'events.db'}"
    common = {"OBSERVED_IN": str(directory), "OBSERVED_URL": url}
    servers = [
        ServerProcess(
            "tests.peers.observed_app:app",
            directory / f"{name}.log",
            environ={**common, "OBSERVED_NAME": name},
        )
        for name in ("worker A", "worker B")
    ]
    async with running(servers[0]), running(servers[1]):
        yield servers
        for server in servers:
            await server.terminate()


async def cut_twice(servers: list[ServerProcess]) -> None:
    """One call: cut, resumed on its worker, cut, and resumed on the other one."""
    session = await RawSession.open(servers[0].port)
    tracer = trace.get_tracer("client")
    with tracer.start_as_current_span("tools/call slow", kind=trace.SpanKind.CLIENT):
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        session.extra |= carrier
        params = {"name": "slow", "arguments": {"steps": 8, "pause": 0.25}}
        meta = {"_meta": {"progressToken": "p", **carrier}}
        call = await session.post("tools/call", params | meta)
        frames = await call.take(2)
        call.close()
        await asyncio.sleep(0.3)
        again = await session.get(last_id(frames))
        frames = await again.take(2)
        again.close()
        await asyncio.sleep(0.3)
        session.port = servers[1].port
        last = await session.get(last_id(frames))
        assert "done" in (await last.body()).decode()


async def one_of_many(servers: list[ServerProcess], until: float) -> None:
    """Somebody who works for a while, at whichever worker."""
    chance = random.Random()
    while time.monotonic() < until:
        session = await RawSession.open(chance.choice(servers).port)
        for _ in range(chance.randint(3, 30)):
            session.port = chance.choice(servers).port
            tool = chance.choices(("search", "flaky", "strict", "slow"), (12, 1, 1, 2))[0]
            response = await session.call(tool, steps=5, pause=0.02)
            if tool == "slow" and chance.random() < 0.7:
                frames = await response.take(2)
                response.close()
                session.port = chance.choice(servers).port
                headers = session.headers(**{"last-event-id": last_id(frames) or ""})
                response = await request(session.port, "GET", "/mcp", headers=headers)
            await response.body()
            response.close()
        await session.delete()


def read(directory: Path, kind: str) -> dict[str, list[Any]]:
    """The lines that each process has exported."""
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(directory.glob(f"*.{kind}"))
    }


async def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        observe("client", directory)
        async with workers(directory) as servers:
            await cut_twice(servers)
        (target / "trace.svg").write_text(trace_picture(read(directory, "spans")))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with workers(directory) as servers:
            until = time.monotonic() + _LOAD_SECONDS
            await asyncio.gather(*(one_of_many(servers, until) for _ in range(_CLIENTS)))
            await asyncio.sleep(1)
        (target / "dashboard.svg").write_text(dashboard_picture(read(directory, "metrics")))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
