"""From a URL to a log: every form that a user may write, and a clear word for those that fail."""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from mcp_persist_middleware.errors import (
    ConfigurationError,
    InvalidSettingError,
    MissingDriverError,
    PersistError,
)
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.settings import Given, Settings, source_of
from mcp_persist_middleware.stores.postgres import hosts
from mcp_persist_middleware.stores.sqlite.log import SqliteLog


@dataclass(frozen=True, slots=True)
class _Driver:
    """What speaks to a kind of store, and the extra that installs it."""

    name: str
    module: str
    extra: str


_SQLITE = _Driver("sqlite+aiosqlite", "aiosqlite", "all")
_POSTGRES = _Driver("postgresql+asyncpg", "asyncpg", "postgres")
_DRIVERS = {
    "sqlite": _SQLITE,
    "sqlite+aiosqlite": _SQLITE,
    "postgres": _POSTGRES,
    "postgresql": _POSTGRES,
    "postgresql+asyncpg": _POSTGRES,
}
_EXPECTED = (
    "expected sqlite+aiosqlite:///events.db or postgresql+asyncpg://user:password@host/database"
)


def parse_url(text: str) -> URL:
    """The URL of a store with its async driver; a bare file name is a SQLite file.

    Raises:
        ConfigurationError: it is no URL, or not one of a store that this version speaks.
    """
    if "://" not in text:
        return URL.create("sqlite+aiosqlite", database=text)
    try:
        url = hosts.spread(make_url(hosts.moved(text)))
    except (ArgumentError, ValueError):
        # The text itself may hold a password, and what was raised a part of it.
        raise InvalidSettingError(
            name="url",
            source="argument",
            value=text.partition("://")[0] + "://…",
            expected=_EXPECTED,
        ) from None
    if url.drivername not in _DRIVERS:
        raise InvalidSettingError(
            name="url",
            source="argument",
            value=_shown(url),
            expected="this version stores in SQLite and PostgreSQL; " + _EXPECTED,
        )
    return url.set(drivername=_DRIVERS[url.drivername].name)


def make_log(settings: Settings) -> EventLog:
    """The log that the settings name, not yet open.

    Raises:
        ConfigurationError: a URL, the engine or `log` is of no use, or a driver is missing.
    """
    try:
        return _log(settings)
    except InvalidSettingError as error:
        told = error.fields
    source, expected = source_of(getattr(settings, str(told["name"]))), str(told["expected"])
    if told["name"] == "url" and source != "argument":
        expected += f" (the package mcp-persist reads {source} too; url= goes before it)"
    raise InvalidSettingError(**(told | {"source": source, "expected": expected}))


def _log(settings: Settings) -> EventLog:
    inner = _sql_log(settings) if settings.log is None else _custom_log(settings.log, settings)
    return inner if settings.redis is None else _redis_in_front(inner, settings)


def _custom_log(make: Callable[[Settings], object], settings: Settings) -> EventLog:
    _check_takes_one(make)
    try:
        log = make(settings)
    except PersistError:
        raise
    except Exception as error:
        # Its text may hold a secret.
        raise ConfigurationError(
            reason=f"log= was called with the Settings and raised {type(error).__name__}"
        ) from error
    if isinstance(log, EventLog):
        return log
    if inspect.iscoroutine(log):
        log.close()
    raise ConfigurationError(
        reason=f"log= returned {type(log).__name__!r}; it has to return an EventLog "
        "(mcp_persist_middleware.store) that is new and not open"
    )


def _check_takes_one(make: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):
        # One in C says nothing of its arguments.
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise ConfigurationError(
            reason="log= has to be a callable of one argument, the Settings; it cannot be called "
            f"so: {error}"
        ) from error


def _redis_in_front(inner: EventLog, settings: Settings) -> EventLog:
    if importlib.util.find_spec("redis") is None:
        scheme = (settings.redis or "").partition("://")[0]
        raise MissingDriverError(url=f"{scheme}://…", driver="redis", extra="redis")
    # The driver is an extra.
    from mcp_persist_middleware.stores.redis import log as redis  # noqa: PLC0415
    from mcp_persist_middleware.stores.redis import url as redis_url  # noqa: PLC0415

    target = redis_url.parse(settings.redis or "")
    return redis.RedisLog(
        inner,
        target,
        prefix=settings.table_prefix,
        timeout=settings.store_timeout,
    )


def _sql_log(settings: Settings) -> EventLog:
    if settings.engine is not None:
        url = settings.engine.url
        if url.drivername not in (_SQLITE.name, _POSTGRES.name):
            raise ConfigurationError(
                reason=f"engine= uses {url.drivername!r}; this version needs "
                f"{_SQLITE.name} or {_POSTGRES.name}"
            )
    else:
        url = parse_url(settings.url or "")
    driver = _DRIVERS[url.drivername]
    if importlib.util.find_spec(driver.module) is None:
        raise MissingDriverError(url=_shown(url), driver=driver.module, extra=driver.extra)
    return _sqlite(url, settings) if driver is _SQLITE else _postgres(url, settings)


def _shown(url: URL) -> str:
    """A URL without what may be secret in it."""
    return url.set(query={}).render_as_string(hide_password=True)


def _postgres(url: URL, settings: Settings) -> EventLog:
    # The driver comes with an extra: without it nobody may import what needs it.
    postgres = importlib.import_module("mcp_persist_middleware.stores.postgres.log")
    log: EventLog = postgres.PostgresLog(
        url,
        prefix=settings.table_prefix,
        timeout=settings.store_timeout,
        engine=settings.engine,
    )
    return log


def _sqlite(url: URL, settings: Settings) -> EventLog:
    shown = _shown(url)
    if complaint := _complaint_of_file(url, path := _path(url, settings)):
        raise InvalidSettingError(name="url", source="argument", value=shown, expected=complaint)
    return SqliteLog(
        url,
        path,
        prefix=settings.table_prefix,
        timeout=settings.store_timeout,
        synchronous=settings.synchronous,
        engine=settings.engine,
    )


def _path(url: URL, settings: Settings) -> Path:
    """Where a SQLite file is, wherever the process goes."""
    path = Path(url.database or "")
    if settings.engine is not None:
        # It takes the name as it stands there.
        return path.absolute()
    base = settings.url.base if isinstance(settings.url, Given) else Path.cwd()
    try:
        return base / path.expanduser()
    except RuntimeError:
        # Nobody's home.
        return base / path


def _complaint_of_file(url: URL, path: Path) -> str | None:
    name = url.database or ""
    if url.host or url.username:
        return "the name of a file begins behind three slashes, sqlite+aiosqlite:///events.db"
    if name in ("", ":memory:") or "mode=memory" in str(url) or name.startswith("file:"):
        return "a store in memory is lost with the process; expected the name of a file"
    if not path.parent.is_dir():
        return f"the directory {path.parent} does not exist; create it first"
    return None
