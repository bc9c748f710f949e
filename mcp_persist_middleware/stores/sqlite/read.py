"""The reads that every look of a reader needs, and retention, each one hop to the driver's thread.
Through SQLAlchemy each takes several, at 1 to 3 ms of the processor; a reader on another worker
looks at every event, and retention at every stream.
"""

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from mcp_persist_middleware.log.base import Purged, Removed
from mcp_persist_middleware.stores.sql.rows import PagedRow, RowPage, named, note_damage, page_of
from mcp_persist_middleware.stores.sql.workers import is_damaged
from mcp_persist_middleware.stores.sqlite.statements import SqliteStatements

# What is removed in one transaction: whoever appends waits for no more than that.
_TOGETHER_EVENTS, _TOGETHER_STREAMS = 200, 20
_LEAST_STREAMS = 50
_VACUUM_PAGES = 256


class SqliteReads:
    """Runs the statements in the driver's thread."""

    def __init__(self, statements: SqliteStatements, columns: Sequence[str]) -> None:
        self._sql = statements
        self._columns = columns

    def row(self, connection: sqlite3.Connection, stream: bytes) -> Any | None:
        """The row of a stream, its columns as attributes."""
        row = connection.execute(self._sql.find_stream, (stream,)).fetchone()
        return None if row is None else named(self._columns, row)

    def page(
        self, connection: sqlite3.Connection, span: tuple[bytes, int, int], max_bytes: int
    ) -> RowPage:
        """At most `max_bytes` of the events in `span`: the stream, what they come after, and how
        many; at least one if there is one."""
        page: list[PagedRow] = []
        total = 0
        with contextlib.closing(connection.execute(self._sql.page, span)) as found:
            for row in found:
                total += len(row[-1])
                if page and total > max_bytes:
                    break
                page.append(row)
        return page_of(page)

    def purge(
        self,
        connection: sqlite3.Connection,
        now: float,
        ended: float,
        max_events: int,
        until: float,
    ) -> Purged:
        """One step of retention, of a session that was deleted what had `ended` by then: in short
        transactions, none of which begins after `until`, on the monotonic clock, but the first.
        Where one of the others fails, it ends with what is done.
        """
        limit = max(_LEAST_STREAMS, max_events // 4)
        found = connection.execute(self._sql.expired, (now, ended, limit)).fetchall()
        purged = self._remove_all(connection, found, max_events, until)
        return Purged(purged.removed, more=purged.more or len(found) == limit)

    def remove(
        self,
        connection: sqlite3.Connection,
        streams: Sequence[bytes],
        max_events: int,
        until: float,
    ) -> Purged:
        """The same for these streams, of those that nobody may read any more."""
        rows = (connection.execute(self._sql.unreadable, (each,)).fetchone() for each in streams)
        found = [row for row in rows if row is not None]
        return self._remove_all(connection, found, max_events, until)

    def _remove_all(
        self,
        connection: sqlite3.Connection,
        found: list[tuple[bytes, str]],
        max_events: int,
        until: float,
    ) -> Purged:
        parts: list[tuple[str, Removed]] = []
        left = max_events
        for start in range(0, len(found), _TOGETHER_STREAMS):
            waiting = found[start : start + _TOGETHER_STREAMS]
            while waiting:
                if left <= 0 or (parts and time.monotonic() >= until):
                    return Purged.of(parts, more=True)
                try:
                    removed, waiting = self._remove(
                        connection, waiting, min(left, _TOGETHER_EVENTS)
                    )
                except sqlite3.Error as error:
                    if is_damaged(error):
                        removed, waiting = self._step_over(connection, waiting)
                    elif not parts:
                        raise
                    else:
                        return Purged.of(parts, more=True)
                left -= sum(part.events for _, part in removed)
                parts += removed
        return Purged.of(parts, more=False)

    def _remove(
        self, connection: sqlite3.Connection, streams: list[tuple[bytes, str]], max_events: int
    ) -> tuple[list[tuple[str, Removed]], list[tuple[bytes, str]]]:
        """Remove streams in one transaction; what went, and the streams that are left."""
        removed: list[tuple[str, Removed]] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for stream, namespace in streams:
                some = {"stream": stream, "limit": max_events}
                events = connection.execute(self._sql.forget, some).rowcount
                max_events -= events
                # At the bound there may be more of it.
                gone = (
                    connection.execute(self._sql.remove_stream, (stream,)).rowcount
                    if max_events > 0
                    else 0
                )
                removed.append((namespace, Removed(gone, events)))
                if max_events <= 0:
                    break
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        done = len(removed) if max_events > 0 else len(removed) - 1
        return removed, streams[done:]

    def _step_over(
        self, connection: sqlite3.Connection, streams: list[tuple[bytes, str]]
    ) -> tuple[list[tuple[str, Removed]], list[tuple[bytes, str]]]:
        """Remove the first stream, or, where its events are damaged, its row alone: nobody finds
        them any more, and they keep nothing else from being removed."""
        try:
            removed, left = self._remove(connection, streams[:1], _TOGETHER_EVENTS)
        except sqlite3.Error as error:
            if not is_damaged(error):
                raise
        else:
            return removed, left + streams[1:]
        connection.execute(self._sql.remove_stream, streams[0][:1])
        note_damage("events of a stream that has expired")
        return [(streams[0][1], Removed(1, 0))], streams[1:]

    def vacuum(self, connection: sqlite3.Connection) -> bool:
        """Give pages back to the file system; whether there are more."""
        (before,) = connection.execute("PRAGMA freelist_count").fetchone()
        # It frees a page at each step, and `execute` takes one step only.
        try:
            connection.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
        except sqlite3.Error as error:
            if not is_damaged(error):
                raise
            # A page that is damaged cannot be moved: the file stays as large as it is.
            return False
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        # A file that somebody else made may not give its pages back.
        return bool(0 < free < before)

    def size(self, connection: sqlite3.Connection) -> int:
        """The bytes of the pages that are in use."""
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)
