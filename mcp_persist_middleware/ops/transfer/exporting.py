"""From a store to lines of JSON."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mcp_persist_middleware.ops.away import away
from mcp_persist_middleware.ops.copy import ends
from mcp_persist_middleware.ops.copy.beside import rows_of
from mcp_persist_middleware.ops.copy.codecs import Decoder
from mcp_persist_middleware.ops.copy.copying import Progress, Report, events_of
from mcp_persist_middleware.ops.copy.rows import (
    EVERYTHING,
    Beside,
    EventRow,
    Row,
    Selection,
    is_kept,
    key_of,
)
from mcp_persist_middleware.ops.copy.store import Readable
from mcp_persist_middleware.ops.transfer import lines

_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export has."""

    sessions: int = 0
    streams: int = 0
    events: int = 0
    jobs: int = 0
    unreadable: int = 0
    """Payloads that cannot be read here; they are left out."""


async def export(
    source: ends.StoreAddress,
    write: Callable[[bytes], Any],
    *,
    only: Selection = EVERYTHING,
    report: Report | None = None,
) -> Exported:
    """Write what a store has, or a part of it, line by line. A server may be on it: a stream is as
    it is when its turn comes.

    Args:
        write: called with each line; in a thread of its own where it may take long.

    Raises:
        CopyError: there is no store.
        StoreError: the store does not answer.
    """
    settings = ends.settings_of(source)
    async with ends.opened(settings) as store:
        exporting = _Exporting(store, Decoder(settings), write, report)
        await exporting.run(only)
    return exporting.done


class _Exporting:
    def __init__(
        self,
        store: Readable,
        reader: Decoder,
        write: Callable[[bytes], Any],
        report: Report | None,
    ) -> None:
        self._store, self._reader = store, reader
        self._write, self._report = write, report
        self._totals = lines.Totals()
        self.done = Exported()

    async def run(self, only: Selection) -> None:
        await self._put([("head", lines.head(self._store.name))])
        now = await self._store.now()
        if only.stream is None:
            async for rows in rows_of(self._store, Beside.SESSION, only):
                await self._sessions([row for row in rows if is_kept(row, now)])
        after = b""
        while rows := await self._store.streams(after, _ROWS, only=only):
            for row in rows:
                if is_kept(row, now):
                    await self._stream(row)
            after = rows[-1]["id"]
        async for rows in rows_of(self._store, Beside.JOB, only):
            # What began meanwhile, and whose stream is not in the lines, is left for the next time.
            await self._jobs([row for row in rows if is_kept(row, now) and row["stream"] <= after])
        await away(lambda: self._write(lines.line("end", self._totals.end())))

    async def _put(self, made: list[tuple[str, bytes]]) -> None:
        for what, line in made:
            self._totals.add(what, line)
        await away(lambda: self._write(b"".join([line for _, line in made])))
        counts = self._totals.counts
        self.done = replace(
            self.done,
            sessions=counts["session"],
            streams=counts["stream"],
            events=counts["event"],
            jobs=counts["job"],
        )
        if self._report is not None:
            done = self.done
            self._report(Progress("export", done.streams, done.events, sessions=done.sessions))

    async def _sessions(self, rows: list[Row]) -> None:
        made = []
        for row in rows:
            try:
                body = self._reader.initialize(key_of(row), row["initialize"])
            except ValueError:
                self.done = replace(self.done, unreadable=self.done.unreadable + 1)
                continue
            made.append(("session", lines.line("session", lines.session_fields(row, body))))
        await self._put(made)

    async def _jobs(self, rows: list[Row]) -> None:
        made = []
        for row in rows:
            try:
                clear = self._reader.job(row)
            except ValueError:
                self.done = replace(self.done, unreadable=self.done.unreadable + 1)
                continue
            made.append(("job", lines.line("job", lines.job_fields(clear))))
        await self._put(made)

    async def _stream(self, row: Row) -> None:
        request = await self._request(row)
        made = [("stream", lines.line("stream", lines.stream_fields(row, request)))]
        async for page in events_of(self._store, row["id"]):
            await self._put(made)
            made = await away(functools.partial(self._events, page))
        await self._put(made)

    async def _request(self, row: Row) -> bytes | None:
        kept = await self._store.request(row["id"]) if row["request"] else None
        try:
            return None if kept is None else self._reader.request(row["id"], kept)
        except ValueError:
            self.done = replace(self.done, unreadable=self.done.unreadable + 1)
            return None

    def _events(self, page: list[EventRow]) -> list[tuple[str, bytes]]:
        made = []
        for event in page:
            try:
                frame = self._reader.frame(event)
            except ValueError:
                self.done = replace(self.done, unreadable=self.done.unreadable + 1)
                continue
            made.append(("event", lines.line("event", lines.event_fields(event, frame))))
        return made
