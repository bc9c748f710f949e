"""Connections to a SQLite file: how they are made and set up."""

import sqlite3
import time
from typing import Any

from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mcp_persist_middleware import redaction
from mcp_persist_middleware.stores.sqlite.drivers import Drivers, in_thread_of

_READERS = 4
_WAL_TRIES, _WAL_PAUSE = 50, 0.01
_WAL_BYTES = 64 * 1024 * 1024


def make(
    url: URL, timeout: float, synchronous: str, factory: type[sqlite3.Connection], drivers: Drivers
) -> AsyncEngine:
    """An engine for one writer and some readers; what a connection waits for is half of `timeout`
    (seconds)."""
    redaction.hush_engines()
    engine = create_async_engine(
        url,
        hide_parameters=True,
        logging_name=redaction.ENGINE,
        pool_size=_READERS + 1,
        max_overflow=0,
        pool_timeout=timeout,
        pool_reset_on_return=None,
        connect_args={
            "timeout": timeout / 2,
            "factory": factory,
            "async_creator_fn": drivers.connect,
        },
        isolation_level="AUTOCOMMIT",
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # In the driver's thread: it may have to wait.
        connection.run_async(lambda driver: in_thread_of(driver, set_up))

    def set_up(raw: sqlite3.Connection) -> None:
        raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _enter_wal(raw)
        raw.execute(f"PRAGMA synchronous = {synchronous}")
        raw.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        # Not all builds of SQLite overwrite what is deleted by themselves.
        raw.execute("PRAGMA secure_delete = ON")

    return engine


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch a file to WAL. Of several who open a new one at once SQLite tells all but one that it
    is locked, without waiting (https://www.sqlite.org/wal.html)."""
    for left in reversed(range(_WAL_TRIES)):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if not left:
                raise
            time.sleep(_WAL_PAUSE)
        else:
            return


def write_back(connection: sqlite3.Connection) -> None:
    """Put all of the write-ahead log into the file.

    Raises:
        sqlite3.OperationalError: somebody reads in it.
    """
    (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise sqlite3.OperationalError("the write-ahead log was deleted while others read in it")
