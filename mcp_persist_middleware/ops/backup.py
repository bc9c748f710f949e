"""A copy of a SQLite store as one file, by SQLite's own online backup: servers go on meanwhile."""

import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from mcp_persist_middleware.errors import CopyError
from mcp_persist_middleware.ops.away import away
from mcp_persist_middleware.ops.copy import ends
from mcp_persist_middleware.stores.connect import make_log
from mcp_persist_middleware.stores.sql.workers import remedy, trouble
from mcp_persist_middleware.stores.sqlite.log import SqliteLog

# Between two of them others get the interpreter's lock, and somebody hears how far it is.
_PAGES = 4096

PageReport = Callable[[int, int], None]
"""Called with how many pages are done, and of how many."""


async def backup(source: ends.StoreAddress, file: Path, *, report: PageReport | None = None) -> int:
    """Write a backup of a SQLite store: as it was at the beginning, whatever is written meanwhile;
    its size in bytes. To restore it, stop the servers, put it in the place of the store's file, and
    remove the files `-wal` and `-shm` beside that.

    Args:
        file: a new one, which only its owner may read.

    Raises:
        CopyError: the store is no SQLite file, or there is none, or the new file is there already
            or cannot be written.
        StoreError: the store cannot be read.
    """
    # What only Redis has is a moment's events.
    log = make_log(dataclasses.replace(ends.settings_of(source), redis=None))
    if not isinstance(log, SqliteLog):
        raise CopyError(reason=f"{log.name} is not in SQLite; its server has tools of its own")
    if not log.path.is_file():
        raise CopyError(reason=f"there is no store at {log.name}")
    try:
        return await away(lambda: _backup(log.path, file, report or _silent))
    except FileExistsError:
        raise CopyError(reason=f"the file {file} is there already; name a new one") from None
    except (sqlite3.Error, OSError) as error:
        # The store is only read: what lacks room is the file.
        fix = remedy(error)
        if isinstance(error, OSError) or fix:
            why = error.strerror if isinstance(error, OSError) else f"{error}; {fix}"
            raise CopyError(reason=f"the file {file} cannot be written: {why}") from error
        raise trouble(log.name, error) from error


def _backup(source: Path, file: Path, report: PageReport) -> int:
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with (
            contextlib.closing(_connect(source)) as from_,
            contextlib.closing(_connect(file)) as to,
        ):
            # One look at the whole: without it each commit of a server makes SQLite begin anew.
            from_.execute("BEGIN")
            from_.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            from_.backup(to, pages=_PAGES, progress=lambda _, left, of: report(of - left, of))
            # One file, with nothing beside it.
            to.execute("PRAGMA journal_mode = DELETE")
            _check(to)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return file.stat().st_size


def _connect(path: Path) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + "?mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30.0)


def _check(connection: sqlite3.Connection) -> None:
    (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise sqlite3.DatabaseError(f"the backup is damaged: {said}")


def _silent(_: int, __: int) -> None:
    """Nobody wants to know."""
