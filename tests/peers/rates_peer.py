"""The competitor's side of `tests.peers.rates`, for an interpreter that has `mcp-persist==2.2.0`.

Reads "STREAMS EVENTS" from standard input, stores so many events on each of so many streams, one
after the other on each and all streams at once, and prints the seconds and the errors of that.
"""

import asyncio
import importlib
import sys
import time
import uuid
from typing import Any


async def _store(url: str) -> Any:
    peer: Any = importlib.import_module("mcp_persist")
    if url.startswith("redis"):
        client: Any = importlib.import_module("redis.asyncio")
        store = peer.RedisEventStore(client.Redis.from_url(url), ttl=3600)
    else:
        asyncpg: Any = importlib.import_module("asyncpg")
        store = peer.PostgresEventStore(await asyncpg.create_pool(url), ttl=3600)
    if hasattr(store, "initialize"):
        await store.initialize()
    return store


async def main(url: str) -> None:
    """Serve requests until the input ends."""
    types: Any = importlib.import_module("mcp_types")
    params = {"progressToken": 1, "progress": 12, "total": 300, "message": "1234567890123456"}
    message = types.JSONRPCNotification(
        jsonrpc="2.0", method="notifications/progress", params=params
    )
    store = await _store(url)
    while line := await asyncio.to_thread(sys.stdin.readline):
        streams, events = map(int, line.split())
        failed = 0

        async def pump(name: str, count: int) -> None:
            nonlocal failed
            for _ in range(count):
                try:
                    await store.store_event(name, message)
                except Exception:
                    failed += 1

        begin = time.perf_counter()
        await asyncio.gather(*(pump(uuid.uuid4().hex, events) for _ in range(streams)))
        print(time.perf_counter() - begin, failed, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
