"""What a Redis does to those who use it."""

import asyncio
import contextlib
import signal

import redis

from tests.support.stores import RedisServer


async def forget(server: RedisServer) -> None:
    """It is flushed, again and again."""
    for _ in range(20):
        with contextlib.closing(redis.Redis(port=server.port)) as client:
            client.flushall()
        await asyncio.sleep(0.05)


async def die_and_forget(server: RedisServer) -> None:
    """It is killed, and comes back with nothing."""
    server.stop(signal.SIGKILL)
    await asyncio.sleep(0.5)
    server.start()


async def lose_connections(server: RedisServer) -> None:
    """It closes what is connected to it, again and again."""
    for _ in range(10):
        with contextlib.closing(redis.Redis(port=server.port)) as client:
            client.client_kill_filter(_type="normal", skipme=True)
            client.client_kill_filter(_type="pubsub")
        await asyncio.sleep(0.1)
