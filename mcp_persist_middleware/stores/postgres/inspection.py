"""What an operator asks a PostgreSQL database."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import URL, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_persist_middleware.errors import StoreError, StoreUnavailableError
from mcp_persist_middleware.stores.postgres import engine as postgres_engine
from mcp_persist_middleware.stores.sql.inspection import Inspection
from mcp_persist_middleware.stores.sql.read_only import PATIENCE
from mcp_persist_middleware.stores.sql.schema import Tables, quoted
from mcp_persist_middleware.stores.sql.workers import engine_of_its_own, reason

_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")


class PostgresInspection(Inspection):
    """`Inspection` of a database.

    Args:
        engine: somebody else's, whose way to the server is taken; without one `plan` says it.
    """

    def __init__(
        self,
        url: URL,
        name: str,
        tables: Tables,
        timeout: float,
        plan: tuple[URL, dict[str, Any]] | None,
        engine: AsyncEngine | None,
    ) -> None:
        super().__init__(name, tables, timeout)
        self._url = url
        self._plan = plan
        self._given = engine

    def _make_engine(self) -> AsyncEngine:
        if self._plan is not None:
            engine = postgres_engine.make(self._plan, self._timeout)
        else:
            assert self._given is not None
            engine = engine_of_its_own(self._given)

        @event.listens_for(engine.sync_engine, "connect")
        def only_read(connection: Any, _: Any) -> None:
            values = {
                "application_name": "mcp-persist operator",
                "default_transaction_read_only": "on",
                "lock_timeout": f"{self._timeout:.0f}s",
                "statement_timeout": f"{PATIENCE:.0f}s",
                # Here a walk of a whole table is what is wanted.
                "enable_seqscan": "on",
            }
            cursor = connection.cursor()
            calls = [f"set_config('{name}', '{value}', false)" for name, value in values.items()]
            cursor.execute("SELECT " + ", ".join(calls))
            cursor.close()

        return engine

    def _unavailable(self, error: Exception) -> StoreError:
        cause = error.__cause__ or error
        fix = postgres_engine.remedy(getattr(cause, "orig", None) or cause, self._url)
        why = reason(cause) if cause is not error else str(error.fields["reason"])  # type: ignore[attr-defined]
        return StoreUnavailableError(url=self.name, reason=why, fix=fix)

    async def _scalar(self, statement: str, **values: object) -> Any:
        async with self.connected() as connection:
            return (await connection.execute(text(statement), values)).scalar_one()

    async def engine_version(self) -> str:
        return f"PostgreSQL {await self._scalar('SHOW server_version')}"

    async def clock_offset(self) -> float | None:
        began = time.time()
        there = float(await self._scalar("SELECT extract(epoch FROM clock_timestamp())"))
        return there - (began + time.time()) / 2

    async def sizes(self) -> Mapping[str, int]:
        size = "SELECT pg_total_relation_size(to_regclass(:name))"
        tables = {each.name: getattr(self.tables, each.name) for each in fields(self.tables)}
        return {
            name: int(await self._scalar(size, name=quoted(table)) or 0)
            for name, table in tables.items()
        }

    async def lacking_rights(self) -> Sequence[str]:
        lacking = []
        for each in fields(self.tables):
            table = quoted(getattr(self.tables, each.name))
            held = ", ".join(f"has_table_privilege(:name, '{right}')" for right in _RIGHTS)
            async with self.connected() as connection:
                (row,) = await connection.execute(text(f"SELECT {held}"), {"name": table})
            missing = [right for right, has in zip(_RIGHTS, row, strict=True) if not has]
            lacking += [f"{', '.join(missing)} on {table}"] if missing else []
        return lacking

    async def hears_itself(self, channel: str) -> bool | None:
        heard = asyncio.Event()

        def hear(*_: object) -> None:
            heard.set()

        async with self.connected() as connection:
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            await driver.add_listener(channel, hear)
            try:
                await driver.execute("SELECT pg_notify($1, '')", channel)
                async with asyncio.timeout(self._timeout):
                    await heard.wait()
            except TimeoutError:
                return False
            finally:
                await driver.remove_listener(channel, hear)
        return True

    async def check_damage(self) -> Sequence[str]:
        return []
