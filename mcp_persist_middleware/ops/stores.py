"""The two ways of a command to a store: to look, which changes nothing, and to change something."""

import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator
from typing import TypeVar

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import ConfigurationError, SchemaVersionError, StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.codecs.coded import CodedLog
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.connect import make_log
from mcp_persist_middleware.stores.sql import migrations
from mcp_persist_middleware.stores.sql.inspection import Inspection
from mcp_persist_middleware.stores.sql.log import SqlLog
from mcp_persist_middleware.stores.sql.migrations import Schema

AnyLog = TypeVar("AnyLog", bound=EventLog)


def sql_log(settings: Settings) -> SqlLog:
    """The log in SQL that the settings name, not open, without what is in front of it.

    Raises:
        ConfigurationError: there is no SQL.
    """
    log = make_log(dataclasses.replace(settings, redis=None))
    if not isinstance(log, SqlLog):
        raise ConfigurationError(
            reason=f"{type(log).__name__} is a store of yours (log=); this command looks into "
            "SQLite and PostgreSQL"
        )
    return log


@contextlib.asynccontextmanager
async def inspected(settings: Settings, *, any_schema: bool = False) -> AsyncIterator[Inspection]:
    """A look at the store; with `any_schema` also where this version cannot read its tables.

    Raises:
        StoreError: it cannot be opened, or is of another version.
    """
    async with sql_log(settings).inspection() as inspection:
        if not any_schema:
            check(inspection.name, await inspection.schema())
        yield inspection


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[EventLog]:
    """The log itself, to change something. No worker is enrolled, and nothing upgraded.

    Raises:
        StoreError: it cannot be opened, or is of another version.
    """
    async with _open(settings, CodedLog(make_log(settings), settings)) as log:
        yield log


@contextlib.asynccontextmanager
async def opened_sql(settings: Settings) -> AsyncIterator[SqlLog]:
    """The log in SQL alone, payloads as they are stored; else as `opened`.

    Raises:
        StoreError: it cannot be opened, or is of another version.
    """
    async with _open(settings, sql_log(settings)) as log:
        yield log


@contextlib.asynccontextmanager
async def _open(settings: Settings, log: AnyLog) -> AsyncIterator[AnyLog]:
    # To open it upgrades it: what is of another version is refused before.
    async with inspected(settings):
        pass
    name = secrets.token_hex(8)
    try:
        await log.open(name)
        # Nobody is to wait for its heartbeats.
        await log.deregister(name)
        yield log
    finally:
        await log.aclose()


def check(name: str, found: Schema) -> None:
    """Refuse tables that this version does not know, or that lack something.

    Raises:
        StoreError: it is so; what to do is in it.
    """
    if found == migrations.EMPTY:
        raise StoreError(
            url=name, reason="it has no tables: no server has opened it yet (or another prefix)"
        )
    check_newer(name, found)
    if found.number < migrations.NEWEST:
        raise StoreError(
            url=name,
            reason=f"it has schema {found.number}, and this version reads {migrations.NEWEST}: "
            "start a server of this version on it, or run `schema upgrade`",
        )


def check_newer(name: str, found: Schema) -> None:
    """Refuse tables of a version beside which this one may not go on.

    Raises:
        SchemaVersionError: it is so.
    """
    if found.compatible_from > migrations.NEWEST:
        raise SchemaVersionError(
            url=name,
            found=found.number,
            package=found.package or "of a newer version",
            own=telemetry.VERSION,
            known=migrations.NEWEST,
        )
