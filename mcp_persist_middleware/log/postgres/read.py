"""The reads that every look of a reader needs, and retention, as the driver runs them: one way to
the server and back for a page."""

from types import SimpleNamespace
from typing import Any

from mcp_persist_middleware.log import codec
from mcp_persist_middleware.log.base import Purged
from mcp_persist_middleware.log.sql.schema import Tables
from mcp_persist_middleware.log.sql.text import unescape
from mcp_persist_middleware.model import Event, EventKind

_PURGE_STREAMS = 50
# How many events a stream has is a guess; whatever it is, each is found and none is looked for.
_BY_INDEX = (
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off;"
    " SET LOCAL enable_mergejoin = off"
)


class Reads:
    """The statements, made once, and what runs them on the driver's connection."""

    def __init__(self, tables: Tables) -> None:
        stream, event = tables.stream.name, tables.event.name
        names = ", ".join(column.name for column in tables.stream.c)
        self.stream = f"SELECT {names} FROM {stream} WHERE id = $1"
        # Sizes are known without fetching what is stored out of line.
        self.events = (
            "SELECT sequence, epoch, kind, codec, payload FROM (SELECT *,"
            " sum(octet_length(payload)) OVER (ORDER BY sequence) AS total,"
            " row_number() OVER (ORDER BY sequence) AS number FROM"
            f" (SELECT sequence, epoch, kind, codec, payload FROM {event}"
            " WHERE stream = $1 AND sequence > $2 ORDER BY sequence LIMIT $3) AS page) AS sized"
            " WHERE total <= $4 OR number = 1 ORDER BY sequence"
        )
        self.expired = (
            f"SELECT id FROM {stream} WHERE expires_at IS NOT NULL AND expires_at <= $1"
            f" ORDER BY expires_at LIMIT {_PURGE_STREAMS} FOR UPDATE SKIP LOCKED"
        )
        some = (
            f"SELECT v.* FROM unnest($1::bytea[]) AS g (id) CROSS JOIN LATERAL (SELECT stream,"
            f" sequence FROM {event} WHERE stream = g.id ORDER BY sequence LIMIT $2) AS v LIMIT $2"
        )
        self.forget = (
            f"DELETE FROM {event} AS e USING (SELECT part.stream, max(part.sequence) AS last"
            f" FROM ({some}) AS part GROUP BY part.stream) AS r"
            " WHERE e.stream = r.stream AND e.sequence <= r.last"
        )
        self.bury = (
            f"DELETE FROM {stream} AS s WHERE s.id = ANY ($1)"
            f" AND NOT EXISTS (SELECT 1 FROM {event} AS e WHERE e.stream = s.id)"
        )

    async def row(self, driver: Any, stream: bytes) -> Any | None:
        """The row of a stream, its columns as attributes."""
        row = await driver.fetchrow(self.stream, stream)
        if row is None:
            return None
        texts = {name: unescape(v) if isinstance(v, str) else v for name, v in row.items()}
        return SimpleNamespace(**texts)

    async def page(
        self, driver: Any, stream: bytes, after: int, max_events: int, max_bytes: int
    ) -> list[Event]:
        """The events after a number: as many as fit, at least one if there is one."""
        rows = await driver.fetch(self.events, stream, after, max_events, max_bytes)
        return [
            Event(sequence, epoch, EventKind(kind), codec.decode(code, payload))
            for sequence, epoch, kind, code, payload in rows
        ]

    async def purge(self, driver: Any, now: float, max_events: int) -> Purged:
        """One step of retention. Who purges beside us takes other streams; who still writes to
        one of these waits, and then finds no stream."""
        async with driver.transaction():
            await driver.execute(_BY_INDEX)
            ids = [row[0] for row in await driver.fetch(self.expired, now)]
            # Each statement sees what was committed before the streams were locked.
            events = _count(await driver.execute(self.forget, ids, max_events))
            streams = _count(await driver.execute(self.bury, ids))
        return Purged(streams, events, more=events >= max_events or len(ids) == _PURGE_STREAMS)


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
