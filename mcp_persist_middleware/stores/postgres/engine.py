"""Connections to PostgreSQL: how they are made, watched and given up, and what is said of those
that cannot be made."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asyncpg
from sqlalchemy import URL, event
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import Pool, QueuePool, StaticPool

from mcp_persist_middleware import redaction
from mcp_persist_middleware.errors import ConfigurationError, InvalidSettingError, StoreError
from mcp_persist_middleware.stores.postgres import hosts, libpq
from mcp_persist_middleware.stores.sql.workers import trouble

# Short reads of many clients; those that write, and the one for wake-ups.
_READERS, _KEPT = 4, 3
_CLOSE_SECONDS = 0.5

# What the driver raises; the last one where a server said farewell to a connection in its rest.
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# Another host may do what this one does not.
_NEXT = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
)

ConnectRaw = Callable[[], Awaitable[tuple[AsyncConnection, Any]]]


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose farewell to a server that does not answer is short."""

    async def close(self, *, timeout: float | None = None) -> None:
        # Then it is closed without the server, and whoever closed it may be gone: nobody is told.
        with contextlib.suppress(TimeoutError):
            await super().close(timeout=min(timeout or _CLOSE_SECONDS, _CLOSE_SECONDS))


class _InTurn:
    """Connects to the first of several hosts that has what is asked for, beginning with the one
    that had it last: a host that is gone without a word takes its share of the time, and once."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    async def __call__(
        self, *, host: list[str], port: list[int], timeout: float, **arguments: Any
    ) -> asyncpg.Connection:
        places = sorted(zip(host, port, strict=True), key=lambda place: place != self._last)
        met: Exception | None = None
        for place in places:
            where = {"host": place[0], "port": place[1], "timeout": timeout / len(places)}
            try:
                connection = await asyncpg.connect(**where, **arguments)
            except asyncpg.TargetServerAttributeNotMatched as error:
                met = met or error
            except _NEXT as error:
                met = error
            else:
                self._last = place
                return connection
        assert met is not None
        raise met


def plan(url: URL, timeout: float) -> tuple[URL, dict[str, Any]]:
    """Where the database is, and what else the driver is told.

    Raises:
        InvalidSettingError: the URL asks for what cannot be.
    """
    place, query = _divided(url)
    arguments: dict[str, Any] = {"connection_class": _Connection}
    try:
        found = libpq.options(query, timeout)
    except ValueError as error:
        shown = hosts.shown(place).render_as_string(hide_password=True)
        raise InvalidSettingError(
            name="url", source="argument", value=shown, expected=str(error)
        ) from None
    if len(hosts.places(url)) > 1:
        arguments["async_creator_fn"] = _InTurn()
        found.libpq.setdefault("target_session_attrs", "read-write")
    if found.libpq:
        # Where it means the same, what libpq is told in a URL is told to the driver in one.
        arguments["dsn"] = "postgresql://?" + urlencode(found.libpq)
    found.say(str(hosts.shown(place)))
    return place, arguments | found.arguments


def make(planned: tuple[URL, dict[str, Any]], timeout: float) -> AsyncEngine:
    """An engine in autocommit mode with few connections, which the server gives up as well when
    nothing is heard of us."""
    place, arguments = planned
    redaction.hush_engines()
    engine = create_async_engine(
        place,
        hide_parameters=True,
        logging_name=redaction.ENGINE,
        pool_size=_READERS + _KEPT,
        max_overflow=0,
        pool_reset_on_return=None,
        connect_args=arguments,
        isolation_level="AUTOCOMMIT",
    )

    configuration = _configuration(timeout)

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(configuration)
        cursor.close()

    @event.listens_for(engine.sync_engine, "checkout")
    def alive(connection: Any, *_: Any) -> None:
        # A server that was restarted has said so to every connection.
        if connection.driver_connection.is_closed():
            raise DisconnectionError

    return engine


def _configuration(timeout: float) -> str:
    """What a new session runs first. A worker that was cut off holds no lock for longer than the
    others wait for it. And every statement has its index: one that is planned by a guess does not
    walk a table instead."""
    milliseconds = max(1, int(timeout * 1000))
    values = {
        "enable_seqscan": "off",
        "jit": "off",
        "idle_in_transaction_session_timeout": milliseconds,
        "tcp_keepalives_idle": max(1, int(timeout)),
        "tcp_keepalives_interval": 1,
        "tcp_keepalives_count": 3,
        "tcp_user_timeout": 2 * milliseconds,
    }
    calls = (f"set_config('{name}', '{value}', false)" for name, value in values.items())
    return "SELECT " + ", ".join(calls)


def check_pool(engine: AsyncEngine) -> None:
    """Refuse an engine whose pool is used up by the connections that stay open.

    Raises:
        ConfigurationError: it is.
    """
    most = _most(engine.sync_engine.pool)
    if most is not None and most <= _KEPT:
        raise ConfigurationError(
            reason=f"the pool of engine= gives at most {most} connections; {_KEPT} stay open, and "
            f"those that read need one at least: let pool_size + max_overflow be {_KEPT + 1} or "
            "more"
        )


def readers(engine: AsyncEngine | None) -> int | None:
    """How many short pieces of work there may be at a time; None where there is no limit."""
    most = _most(engine.sync_engine.pool) if engine is not None else _READERS + _KEPT
    return None if most is None else most - _KEPT


def _most(pool: Pool) -> int | None:
    """How many connections a pool gives at a time; None where it has no limit or does not say."""
    match pool:
        case StaticPool():
            return 1
        case QueuePool():
            # Zero and -1 are no limit; there is no other way to ask for the overflow.
            size, overflow = pool.size(), pool._max_overflow  # noqa: SLF001
            return size + overflow if size > 0 and overflow >= 0 else None
        case _:
            return None


def _divided(url: URL) -> tuple[URL, dict[str, Any]]:
    """Where the database is and who asks, and what else is said of the connection."""
    query: dict[str, Any] = dict(url.query)
    named = query.pop("dbname", None) or query.pop("database", None)
    place = url.set(
        query={name: query.pop(name) for name in ("host", "port") if name in query},
        username=url.username or query.pop("user", None),
        password=url.password or query.pop("password", None),
        database=url.database or named,
    )
    return place, query


@contextlib.asynccontextmanager
async def answering(name: str, timeout: float) -> AsyncIterator[None]:
    """The seam for what the driver raises when it is used without SQLAlchemy."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError as error:
        raise StoreError(url=name, reason=f"no answer in {timeout:g} s") from error
    except (SQLAlchemyError, OSError, *DRIVER_ERRORS) as error:
        raise trouble(name, error) from error


async def drop(connection: AsyncConnection) -> None:
    """Close a connection for good, whatever state it is in."""
    with contextlib.suppress(SQLAlchemyError, OSError, TimeoutError, *DRIVER_ERRORS):
        async with asyncio.timeout(2 * _CLOSE_SECONDS):
            await connection.invalidate()
            await connection.close()


async def check_session(driver: Any, connect: ConnectRaw, timeout: float) -> None:
    """Refuse a pooler that gives every transaction another session: statements are prepared in a
    session, and it is a session that listens.

    Raises:
        ConfigurationError: it is one.
    """
    async with asyncio.timeout(timeout), contextlib.AsyncExitStack() as others:
        mine = await _backend(driver)
        await driver.execute("COMMIT")
        if mine == driver.get_server_pid():
            return
        # Somebody is between us, and what was just let go of is the next one's, in whatever order
        # they come: the first who asks now, or the one after it, or we have another ourselves.
        found = [await _other(others, connect)]
        again = await _backend(driver)
        await driver.execute("COMMIT")
        found.append(await _other(others, connect))
    if mine in found or mine != again:
        raise ConfigurationError(reason=_POOLED)


async def _backend(driver: Any) -> int:
    """Begin a transaction; the server's process that runs it."""
    await driver.execute("BEGIN")
    pid: int = await driver.fetchval("SELECT pg_backend_pid()")
    return pid


async def _other(others: contextlib.AsyncExitStack, connect: ConnectRaw) -> int:
    """The process that another connection has, and keeps while `others` is open."""
    connection, driver = await connect()
    others.push_async_callback(drop, connection)
    return await _backend(driver)


_POOLED = (
    "the store's URL leads to a pooler in transaction mode; connect to PostgreSQL itself, or to a "
    "pool in session mode (pgbouncer: pool_mode = session)"
)

_REMEDIES = {
    "28P01": "Check the user and the password in the URL, and the server's pg_hba.conf",
    "28000": "Check the user and the password in the URL, and the server's pg_hba.conf",
    "3D000": "Create the database {database!r}, or correct its name in the URL",
    "42501": "Grant the user SELECT, INSERT, UPDATE and DELETE on the tables",
    "25006": "Connect to the primary: this server takes no writes",
    "53100": "Make room on the disk of the server",
    "53300": "Raise max_connections of the server, or lower the number of workers",
    "42704": "Take it out of the URL's query: neither the driver nor the server knows it",
    # A statement that was prepared, and is another session's.
    "26000": _POOLED[0].upper() + _POOLED[1:],
    "42P05": _POOLED[0].upper() + _POOLED[1:],
    "08P01": "It is the pooler in front of the server that says so: correct its configuration "
    "(pgbouncer: pool_mode = session), or connect to PostgreSQL itself",
}

_UNREADABLE = (
    "Let this user read {home}, where the driver looks for .pgpass and .postgresql, or let HOME be "
    "a directory that it may read (a host that is a socket: let it use that)"
)


def remedy(error: BaseException, url: URL) -> str:
    """What to do about a database that cannot be opened."""
    cause = error.__cause__ if not hasattr(error, "sqlstate") and error.__cause__ else error
    match getattr(cause, "sqlstate", None) or "":
        case "08003" if cause.__cause__ is not None:
            # It was closed, with a reason.
            return remedy(cause.__cause__, url)
        case state if state in _REMEDIES:
            return _REMEDIES[state].format(database=url.database)
        case _ if isinstance(cause, ssl.SSLError):
            return "Check sslmode and sslrootcert in the URL, and the server's certificate"
        case _ if isinstance(cause, PermissionError) and "Connect call" not in str(cause):
            return _UNREADABLE.format(home=Path("~").expanduser())
        case _ if isinstance(cause, OSError):
            where = " or ".join(f"{host}:{port}" for host, port in hosts.places(url))
            return f"Check that a PostgreSQL server listens at {where}"
        case _:
            return "Check that the URL leads to a PostgreSQL database that takes writes"
