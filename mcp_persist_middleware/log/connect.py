"""From a URL to a log: every form that a user may write, and a clear word for those that fail."""

import importlib.util
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from mcp_persist_middleware.errors import (
    ConfigurationError,
    InvalidSettingError,
    MissingDriverError,
)
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.sqlite import SqliteLog
from mcp_persist_middleware.settings import Settings

_ASYNC_DRIVERS = {
    "sqlite": ("sqlite+aiosqlite", "aiosqlite", "all"),
    "sqlite+aiosqlite": ("sqlite+aiosqlite", "aiosqlite", "all"),
}


def parse_url(text: str) -> URL:
    """The URL of a store with its async driver; a bare file name is a SQLite file.

    Raises:
        ConfigurationError: it is no URL, or not one of a store that this version speaks.
    """
    if "://" not in text:
        return URL.create("sqlite+aiosqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        # The text itself may hold a password.
        raise InvalidSettingError(
            name="url",
            source="argument",
            value=text.partition("://")[0] + "://…",
            expected="expected a URL such as sqlite+aiosqlite:///events.db",
        ) from error
    if url.drivername not in _ASYNC_DRIVERS:
        raise InvalidSettingError(
            name="url",
            source="argument",
            value=url.render_as_string(hide_password=True),
            expected="this version stores in SQLite; expected sqlite+aiosqlite:///events.db",
        )
    return url.set(drivername=_ASYNC_DRIVERS[url.drivername][0])


def make_log(settings: Settings) -> EventLog:
    """The log that the settings name, not yet open.

    Raises:
        ConfigurationError: the URL or the engine is of no use, or a driver is missing.
    """
    if settings.engine is not None:
        url = settings.engine.url
        if url.drivername != "sqlite+aiosqlite":
            raise ConfigurationError(
                reason=f"engine= uses {url.drivername!r}; this version needs sqlite+aiosqlite"
            )
    else:
        url = parse_url(settings.url or "")
    _, driver, extra = _ASYNC_DRIVERS[url.drivername]
    shown = url.render_as_string(hide_password=True)
    if importlib.util.find_spec(driver) is None:
        raise MissingDriverError(url=shown, driver=driver, extra=extra)
    name = url.database or ""
    if name in ("", ":memory:") or "mode=memory" in str(url) or name.startswith("file:"):
        raise InvalidSettingError(
            name="url",
            source="argument",
            value=shown,
            expected="a store in memory is lost with the process; expected the name of a file",
        )
    parent = Path(name).expanduser().absolute().parent
    if not parent.is_dir():
        raise InvalidSettingError(
            name="url",
            source="argument",
            value=shown,
            expected=f"the directory {parent} does not exist; create it first",
        )
    return SqliteLog(
        url,
        prefix=settings.table_prefix,
        timeout=settings.store_timeout,
        synchronous=settings.synchronous,
        engine=settings.engine,
    )
