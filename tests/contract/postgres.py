"""A PostgreSQL store as somebody else on the server sees it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import make_url

from tests.support.stores import Store


@asynccontextmanager
async def somebody(store: Store) -> AsyncIterator[Any]:
    """A connection to the database."""
    plain = make_url(store.url).set(drivername="postgresql")
    connection = await asyncpg.connect(plain.render_as_string(hide_password=False))
    try:
        yield connection
    finally:
        await connection.close()


async def waits_for_a_lock(connection: Any, count: int = 1) -> None:
    """Return when so many in this database wait for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(5):
        while await connection.fetchval(waiting) < count:
            await asyncio.sleep(0.005)
            # A transaction sees the others as they were at its first look.
            await connection.execute("SELECT pg_stat_clear_snapshot()")


async def subscribers(connection: Any) -> list[int]:
    """The backends that listen for wake-ups."""
    rows = await connection.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND query LIKE '%pg_notify%' AND pid <> pg_backend_pid()"
    )
    return [row[0] for row in rows]
