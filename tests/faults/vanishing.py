"""A worker on a SQLite file that says of each stream when it is committed, and reads all the while:
`python -m tests.faults.vanishing events.db`."""

import asyncio
import contextlib
import sys

from mcp_persist_middleware import Persistence
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.testing.contract.builders import COMMITTED, events, new, record


async def _read(log: EventLog) -> None:
    while True:
        with contextlib.suppress(StoreError):
            await log.find(record().id)
        await asyncio.sleep(0.003)


async def _main(path: str) -> None:
    async with Persistence(f"sqlite+aiosqlite:///{path}", store_timeout=2.0) as persistence:
        log = (await access_to(persistence).context()).log
        reading = [asyncio.create_task(_read(log)) for _ in range(3)]
        subscription = log.wakeups.subscribe(record().id)
        while reading:
            stream = record()
            try:
                outcomes = await log.append([new(stream, *events(1, 1))])
            except StoreError:
                continue
            assert outcomes == [COMMITTED]
            print(stream.id.hex(), flush=True)
            await asyncio.sleep(0.005)
        subscription.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
