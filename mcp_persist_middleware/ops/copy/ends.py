"""From settings to the two ends of a copy."""

import contextlib
import dataclasses
import importlib
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

from mcp_persist_middleware.errors import CopyError
from mcp_persist_middleware.log import mirror
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import StreamWrite
from mcp_persist_middleware.ops import stores
from mcp_persist_middleware.ops.copy.logs import LogRows
from mcp_persist_middleware.ops.copy.sqlite import SqliteRows
from mcp_persist_middleware.ops.copy.store import Writable
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.connect import make_log
from mcp_persist_middleware.stores.sql.log import SqlLog
from mcp_persist_middleware.stores.sql.migrations import Schema
from mcp_persist_middleware.stores.sqlite.log import SqliteLog

_PAGE = 100


StoreAddress = str | Mapping[str, Any] | Settings
"""A store: its URL, or its URL and what else it is told as `SettingsArguments` has it."""


def settings_of(given: StoreAddress) -> Settings:
    """The checked settings of a store.

    Raises:
        ConfigurationError: one is unknown or wrong.
    """
    match given:
        case Settings():
            return given
        case str():
            return Settings.load({"url": given})
        case _:
            return Settings.load(given)


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Writable]:
    """An end that is open.

    Raises:
        CopyError: there is no store.
    """
    async with maybe_opened(settings) as store:
        if store is None:
            raise CopyError(reason=f"there is no store at {_sql_log(settings).name}")
        yield store


@contextlib.asynccontextmanager
async def maybe_opened(settings: Settings) -> AsyncIterator[Writable | None]:
    """An end that is open; None where there is no store.

    Raises:
        SchemaVersionError: it is of a version whose rows this one does not know.
    """
    log = _sql_log(settings)
    store = _rows(log)
    try:
        is_there = await store.open()
        if is_there and isinstance(log, SqlLog):
            stores.check_newer(log.name, Schema.of(await store.meta()))
        yield store if is_there else None
    finally:
        await store.aclose()


async def make_tables(settings: Settings) -> None:
    """Let the store of a target be there, as a server does that starts on it."""
    log = _sql_log(settings)
    try:
        await log.open(_name())
    finally:
        await log.aclose()


async def settle(settings: Settings) -> None:
    """Bring into a store what only the Redis in front of it has. Nobody else is there."""
    log = make_log(settings)
    try:
        await log.open(_name())
        for worker in await log.active_writers():
            after = b""
            while left := await log.open_streams_of(worker, _PAGE, after):
                # Nothing is written with it, but all that came before it.
                await log.append([StreamWrite(record.id, record.epoch) for record in left])
                after = left[-1].id
    finally:
        await log.aclose()


def _sql_log(settings: Settings) -> EventLog:
    # What is in Redis is what SQL has, or will have in a moment.
    return make_log(dataclasses.replace(settings, redis=None))


def _rows(log: EventLog) -> Writable:
    if isinstance(log, SqliteLog):
        return SqliteRows(log.name, log.path, log.tables, log.synchronous)
    if isinstance(log, SqlLog):
        # The driver comes with an extra: without it nobody may import what needs it.
        postgres: Any = importlib.import_module("mcp_persist_middleware.ops.copy.postgres")
        return cast(Writable, postgres.of(log))
    return LogRows(log, _name())


def _name() -> str:
    return mirror.COPIER + secrets.token_hex(8)
