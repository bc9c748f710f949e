"""Brings a store's tables to the newest schema, one step after the other, each in a transaction
that is alone, and all in one where there were none: of many workers that start at once one takes a
step and the others find it taken, and of one that dies in the middle of a step nothing is left."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields

from sqlalchemy import func, inspect, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import SchemaInUseError, SchemaRightsError, SchemaVersionError
from mcp_persist_middleware.model import WorkerState
from mcp_persist_middleware.stores.sql import migrations
from mcp_persist_middleware.stores.sql.migrations import Migration, Schema
from mcp_persist_middleware.stores.sql.rows import reading
from mcp_persist_middleware.stores.sql.schema import Tables, quoted

logger = logging.getLogger(__name__)

# PostgreSQL's insufficient_privilege.
_NO_RIGHT = "42501"
# A worker that has not been heard of for so long (seconds) is in nobody's way: its lease is over.
_GONE = 60.0


class Upgrade:
    """The steps of one store.

    Args:
        name: of the store, for messages.
    """

    def __init__(self, name: str, tables: Tables) -> None:
        self._name = name
        self._tables = tables
        self._prefix = tables.meta.name.removesuffix("meta")

    async def meta(self, connection: AsyncConnection) -> Mapping[str, bytes] | None:
        """What the store says of itself; None where there are no tables."""
        table = self._tables.meta
        if not await connection.run_sync(lambda sync: inspect(sync).has_table(table.name)):
            return None
        return {row.name: row.value for row in await connection.execute(select(table))}

    async def next(self, connection: AsyncConnection) -> Sequence[Migration]:
        """The steps that the store lacks and that are taken in one transaction, which is this one
        or another.

        Raises:
            SchemaVersionError: the store is of a newer version, beside which this one may not work.
        """
        found = await self._found(connection)
        if found.number > migrations.NEWEST:
            if found.compatible_from > migrations.NEWEST:
                raise SchemaVersionError(
                    url=self._name,
                    found=found.number,
                    package=found.package or "of a newer version",
                    own=telemetry.VERSION,
                    known=migrations.NEWEST,
                )
            logger.info("The store %s has a newer schema, beside which this goes on", self._name)
        lacking = migrations.pending(found)
        return lacking[:1] if found.number else lacking

    async def take(
        self, connection: AsyncConnection, steps: Sequence[Migration], now: float
    ) -> None:
        """Take steps, in a transaction that nobody else is in.

        Raises:
            SchemaInUseError: older workers are here, which cannot go on beside it.
            SchemaRightsError: this user may not change tables.
        """
        found = await self._found(connection)
        if not found.number:
            logger.info("The store %s is new: it gets its tables", self._name)
        for step in steps:
            if found.number and step.compatible_from > found.compatible_from:
                await self._check_left(connection, step, now)
            if found.number:
                logger.info("The store %s gets schema %d (%s)", self._name, step.number, step.name)
            await self._take(connection, step, found)

    async def _take(self, connection: AsyncConnection, step: Migration, found: Schema) -> None:
        dialect = connection.dialect.name
        try:
            for statement in step.statements(dialect, self._prefix):
                await connection.exec_driver_sql(statement)
            await connection.exec_driver_sql(migrations.record(step, dialect, self._prefix))
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _NO_RIGHT:
                raise
            raise SchemaRightsError(
                url=self._name,
                found=found.number,
                newest=migrations.NEWEST,
                plan=f"\n\n{self._plan(connection, found)}\n\n",
            ) from None

    def _plan(self, connection: AsyncConnection, found: Schema) -> str:
        """What somebody else has to run for the user of this connection."""
        plan = migrations.plan(found, connection.dialect.name, self._prefix)
        tables = ", ".join(quoted(getattr(self._tables, each.name)) for each in fields(Tables))
        user = connection.engine.url.username or "<this user>"
        return f'{plan}\n\nGRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO "{user}";'

    async def _found(self, connection: AsyncConnection) -> Schema:
        meta = await self.meta(connection)
        if meta is None:
            return migrations.EMPTY
        with reading(self._name, "schema version"):
            return Schema.of(meta)

    async def _check_left(self, connection: AsyncConnection, step: Migration, now: float) -> None:
        c = self._tables.worker.c
        behind = select(func.count()).where(
            func.coalesce(c.schema, 1) < step.compatible_from,
            c.state != int(WorkerState.DEAD),
            c.seen_at > now - _GONE,
        )
        if count := (await connection.execute(behind)).scalar_one():
            raise SchemaInUseError(url=self._name, number=step.number, count=count)
