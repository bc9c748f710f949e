"""The reads that every look of a reader needs, each one hop to the driver's thread. Through
SQLAlchemy each takes several, at 1 to 3 ms of the processor; a reader on another worker looks at
every event.
"""

import contextlib
import sqlite3
from types import SimpleNamespace
from typing import Any

from mcp_persist_middleware.log import codec
from mcp_persist_middleware.log.sql.schema import Tables
from mcp_persist_middleware.model import Event, EventKind


class Reads:
    """The statements, made once, and what runs them in the driver's thread."""

    def __init__(self, tables: Tables) -> None:
        self._columns = [column.name for column in tables.stream.c]
        names = ", ".join(self._columns)
        self.stream = f"SELECT {names} FROM {tables.stream.name} WHERE id = ?"
        self.events = (
            f"SELECT sequence, epoch, kind, codec, payload FROM {tables.event.name}"
            " WHERE stream = ? AND sequence > ? ORDER BY sequence LIMIT ?"
        )

    def row(self, connection: sqlite3.Connection, stream: bytes) -> Any | None:
        """The row of a stream, its columns as attributes."""
        row = connection.execute(self.stream, (stream,)).fetchone()
        return (
            None if row is None else SimpleNamespace(**dict(zip(self._columns, row, strict=True)))
        )

    def page(
        self, connection: sqlite3.Connection, span: tuple[bytes, int, int], max_bytes: int
    ) -> list[Event]:
        """At most `max_bytes` of the events in `span`: the stream, what they come after, and how
        many; at least one if there is one."""
        events: list[Event] = []
        total = 0
        with contextlib.closing(connection.execute(self.events, span)) as rows:
            for sequence, epoch, kind, code, payload in rows:
                total += len(payload)
                if events and total > max_bytes:
                    break
                events.append(Event(sequence, epoch, EventKind(kind), codec.decode(code, payload)))
        return events
