"""What an operator asks a SQLite file."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiosqlite
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mcp_persist_middleware import redaction
from mcp_persist_middleware.errors import StoreError, StoreUnavailableError
from mcp_persist_middleware.stores.sql.inspection import Inspection
from mcp_persist_middleware.stores.sql.schema import Tables
from mcp_persist_middleware.stores.sql.workers import reason
from mcp_persist_middleware.stores.sqlite import clock
from mcp_persist_middleware.stores.sqlite.drivers import Drivers
from mcp_persist_middleware.stores.sqlite.workers import WorkerLocks

_PARTS = ("", "-wal", "-shm")
_DAMAGE = 10


class SqliteInspection(Inspection):
    """`Inspection` of a file, which has to be there."""

    def __init__(self, name: str, path: Path, tables: Tables, timeout: float) -> None:
        super().__init__(name, tables, timeout)
        self.path = path
        self._drivers = Drivers()

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        await self._drivers.end(self._timeout)

    def _make_engine(self) -> AsyncEngine:
        redaction.hush_engines()
        uri = self.path.absolute().as_uri() + "?mode=ro"

        async def connected() -> aiosqlite.Connection:
            return await self._drivers.connect(
                uri, uri=True, timeout=self._timeout, isolation_level=None
            )

        return create_async_engine(
            "sqlite+aiosqlite://",
            async_creator=connected,
            hide_parameters=True,
            logging_name=redaction.ENGINE,
            pool_reset_on_return=None,
            isolation_level="AUTOCOMMIT",
        )

    def _unavailable(self, error: Exception) -> StoreError:
        if not self.path.exists():
            why = "the file is not there"
            fix = "Check its name; a server that starts with it makes it"
        elif self.path.is_dir():
            why, fix = "it is a directory", "Name the file in it"
        else:
            why = reason(error.__cause__ or error)
            fix = "Check that this user may read the file, and that it is a SQLite database"
        return StoreUnavailableError(url=self.name, reason=why, fix=fix)

    async def _interrupt(self, connection: AsyncConnection) -> None:
        with contextlib.suppress(Exception):
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            await driver.interrupt()
        await super()._interrupt(connection)

    async def engine_version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    async def clock_offset(self) -> float | None:
        meta = await self.meta("clock") or {}
        ahead = clock.agreed(meta.get("clock", b""))
        return None if ahead is None else ahead + time.monotonic() - time.time()

    async def sizes(self) -> Mapping[str, int]:
        paths = {part: Path(f"{self.path}{part}") for part in _PARTS}
        found = {f"file{part}": p.stat().st_size for part, p in paths.items() if p.exists()}
        return found | {
            "free": await self._pragma("freelist_count") * await self._pragma("page_size")
        }

    async def _pragma(self, name: str) -> int:
        async with self.connected() as connection:
            return int((await connection.execute(text(f"PRAGMA {name}"))).scalar_one())

    async def lacking_rights(self) -> Sequence[str]:
        lacking = [f"write {self.path}"] if not os.access(self.path, os.W_OK) else []
        if not os.access(self.path.parent, os.W_OK | os.X_OK):
            lacking.append(f"make files in {self.path.parent}")
        return lacking

    async def check_damage(self) -> Sequence[str]:
        async with self.connected() as connection:
            found = await connection.execute(text(f"PRAGMA quick_check({_DAMAGE})"))
            told = [str(row[0]) for row in found]
        return [] if told == ["ok"] else told

    def is_gone(self, worker: str) -> bool:
        try:
            return not WorkerLocks(self.path).is_held(worker)
        except OSError:
            return False
