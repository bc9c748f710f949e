"""Streams written into a log as a worker writes them, from the rows that say how they are."""

from collections.abc import Sequence
from itertools import groupby

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import (
    Ending,
    Event,
    EventKind,
    Outcome,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.ops.copy import records
from mcp_persist_middleware.ops.copy.rows import EPOCH, SEQUENCE, STREAM, Changes, EventRow, Row


class StreamWriter:
    """Writes what changes say of streams: epoch by epoch, and the end when all of it is there. What
    is there already is not written again."""

    def __init__(self, log: EventLog, changes: Changes) -> None:
        self._log = log
        self._whole = {row["id"] for row in changes.streams}
        self._rows = {row["id"]: row for row in (*changes.new_streams, *changes.streams)}
        self._events: dict[bytes, list[EventRow]] = {}
        for event in changes.events:
            self._events.setdefault(event[STREAM], []).append(event)

    async def run(self) -> None:
        """Write it.

        Raises:
            StoreError: the log does not take it.
        """
        for stream in dict.fromkeys((*self._rows, *self._events)):
            await self._write(stream, self._rows.get(stream), self._events.get(stream, []))

    async def _write(self, stream: bytes, row: Row | None, events: Sequence[EventRow]) -> None:
        found = await self._log.find(stream)
        if found is None and row is not None:
            first = events[0][EPOCH] if events else row["epoch"]
            found = records.stream_record(row, first)
            await self._append(StreamWrite(stream, first, create=found))
        if found is None:
            raise StoreError(url=self._log.name, reason="events came before their stream")
        last = (await self._log.written(stream)).last
        epoch = found.epoch
        new = [event for event in events if event[SEQUENCE] > last]
        for each, group in groupby(new, lambda event: event[EPOCH]):
            made = tuple(
                Event(n, e, EventKind(k), data, codec) for _, n, e, k, codec, data in group
            )
            takes_over = epoch if each != epoch else None
            await self._append(StreamWrite(stream, each, takes_over=takes_over, events=made))
            epoch, last = each, made[-1].sequence
        if row is not None and row["epoch"] >= 0:
            await self._settle(row, found, epoch, last)

    async def _settle(self, row: Row, found: StreamRecord, epoch: int, last: int) -> None:
        """Epoch, owner and end as the row says."""
        stream = row["id"]
        if row["epoch"] > epoch:
            epoch, before = row["epoch"], epoch
            await self._append(StreamWrite(stream, epoch, takes_over=before, worker=row["worker"]))
        now = await self._log.find(stream)
        is_open = now is not None and now.state is StreamState.OPEN
        if is_open and row["principal"] != found.owner.principal:
            await self._append(StreamWrite(stream, epoch, principal=row["principal"]))
        is_whole = stream in self._whole or last >= row["last_sequence"]
        state = StreamState(row["state"])
        if is_open and state is not StreamState.OPEN and is_whole:
            end = Ending(state, row["last_sequence"], row["ended_at"], row["expires_at"])
            await self._append(StreamWrite(stream, epoch, ending=end))

    async def _append(self, write: StreamWrite) -> None:
        (outcome,) = await self._log.append([write])
        if outcome is not Outcome.COMMITTED:
            raise StoreError(url=self._log.name, reason=f"a stream was {outcome.value}")


def _event(row: EventRow) -> Event:
    _, sequence, epoch, kind, codec, frame = row
    return Event(sequence, epoch, EventKind(kind), frame, codec)
