"""From lines of JSON into a store, in which servers may be at work."""

import hmac
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from mcp_persist_middleware.model import JOB_ID_BYTES
from mcp_persist_middleware.ops.away import away
from mcp_persist_middleware.ops.copy import ends
from mcp_persist_middleware.ops.copy.codecs import Recoder
from mcp_persist_middleware.ops.copy.copying import Progress, Report
from mcp_persist_middleware.ops.copy.rows import (
    LAST,
    SEQUENCE,
    STREAM,
    Beside,
    Changes,
    EventRow,
    Row,
)
from mcp_persist_middleware.ops.copy.store import Writable
from mcp_persist_middleware.ops.transfer import lines
from mcp_persist_middleware.protocol.event_id import TIME_BYTES

_LINES = 1000
_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import has brought."""

    sessions: int = 0
    streams: int = 0
    events: int = 0
    jobs: int = 0
    skipped: int = 0
    """Sessions, streams and jobs that were there already; jobs whose key another one has; and all
    jobs where the store keeps none."""


async def import_(
    given: Iterable[bytes],
    target: ends.StoreAddress,
    *,
    renew: bool = False,
    report: Report | None = None,
) -> Imported:
    """Bring the lines of an export into a store. What is there already stays as it is: to import
    the same lines again does nothing, after an import that was stopped too.

    Args:
        given: the lines, each with its end.
        renew: give sessions and streams new ids: a copy beside what is there. A client's cursors
            and session ids are of the old ones.

    Raises:
        ExportFileError: the lines are no export, or damaged, or cut; what came before is there.
        StoreIncompleteError: another store is being copied into this one.
        StoreError: the store does not do it.
    """
    settings = ends.settings_of(target)
    await ends.make_tables(settings)
    async with ends.opened(settings) as store:
        importing = _Importing(store, Recoder(settings, settings), Renewed() if renew else None)
        parsed = lines.parsed(given)
        page, wrong = await away(lambda: _page(parsed))
        while page:
            await importing.take_all(page)
            if report is not None:
                report(importing.progress())
            if wrong is not None:
                break
            page, wrong = await away(lambda: _page(parsed))
        await importing.finish(is_whole=wrong is None)
    if wrong is not None:
        raise wrong
    return importing.done


def _page(
    parsed: Iterator[tuple[int, lines.Line]],
) -> tuple[list[tuple[int, lines.Line]], lines.ExportFileError | None]:
    """The next lines, and what is wrong with the one behind them."""
    page: list[tuple[int, lines.Line]] = []
    try:
        # One by one: those before a wrong one are kept.
        page.extend(islice(parsed, _LINES))
    except lines.ExportFileError as error:
        return page, error
    return page, None


class Renewed:
    """Other ids for all that an export names: the same one for the same, in this import."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def stream(self, id_: bytes) -> bytes:
        """A stream's: as old as it is."""
        return id_[:TIME_BYTES] + self._made(id_)[: _ID_BYTES - TIME_BYTES]

    def session(self, id_: str) -> str:
        """A session's; streams without one stay so."""
        return self._made(id_.encode("utf-8", "surrogatepass")).hex()[:32] if id_ else id_

    def _made(self, name: bytes) -> bytes:
        return hmac.digest(self._key, name, "sha256")

    def renew(self, what: str, row: Row) -> Row:
        """A session, a stream or a job under its new ids."""
        if what == "session":
            read = row["read_stream"]
            return row | {
                "id": self.session(row["id"]),
                "read_stream": read and self.stream(read),
            }
        session = self.session(row["session"])
        if what == "job":
            id_ = row["id"]
            made = id_[:TIME_BYTES] + self._made(id_)[: JOB_ID_BYTES - TIME_BYTES]
            # Its key finds the job that is there.
            stream = self.stream(row["stream"])
            return row | {"id": made, "stream": stream, "session": session, "key": ""}
        return row | {"id": self.stream(row["id"]), "session": session}


class _Importing:
    """Takes line after line. A stream's row comes with the last of its events, so that one which
    is there is there whole."""

    def __init__(self, store: Writable, recoder: Recoder, renewed: Renewed | None) -> None:
        self._store, self._recoder, self._renewed = store, recoder, renewed
        self._changes = Changes()
        self._stream: Row | None = None
        """The stream whose events come now; None where they are not wanted."""
        self._had = 0
        """What an import that was stopped has left of it."""
        self.done = Imported()

    def progress(self) -> Progress:
        """How far it is."""
        done = self.done
        return Progress("import", done.streams, done.events, sessions=done.sessions)

    async def take_all(self, page: Sequence[tuple[int, lines.Line]]) -> None:
        """Take lines.

        Raises:
            ExportFileError: in one of them is what cannot be.
        """
        for number, (what, fields) in page:
            try:
                await self._take(what, fields)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                reason = f"{type(error).__name__} {error}"
                raise lines.ExportFileError(number=number, reason=reason) from error

    async def _take(self, what: str, fields: dict[str, Any]) -> None:
        match what:
            case "session":
                await self._session(self._named(what, lines.session_row(fields)))
            case "job":
                await self._end_stream()
                await self._job(self._named(what, lines.job_row(fields)))
            case "stream":
                await self._end_stream()
                await self._begin_stream(self._named(what, lines.stream_row(fields)))
            case _:
                await self._event(lines.event_row(fields))

    async def finish(self, *, is_whole: bool) -> None:
        """There are no more lines; where the rest of them is missing the last stream may be."""
        if is_whole:
            await self._end_stream()
        await self._flush()

    def _named(self, what: str, row: Row) -> Row:
        return row if self._renewed is None else self._renewed.renew(what, row)

    async def _session(self, row: Row) -> None:
        if not await self._store.find_rows(Beside.SESSION, [Beside.SESSION.key_of(row)]):
            await self._add(Beside.SESSION, row)
        else:
            self._skip()

    async def _job(self, row: Row) -> None:
        table, store = Beside.JOB, self._store
        is_there = table not in store.kept() or await store.find_rows(table, [table.key_of(row)])
        if not is_there and not await store.has_key(row):
            await self._add(table, row)
        else:
            self._skip()

    async def _add(self, table: Beside, row: Row) -> None:
        self._changes.add_rows(table, [self._recoder.row(table, row)])
        await self._flush_if_full()

    def _skip(self) -> None:
        self.done = replace(self.done, skipped=self.done.skipped + 1)

    async def _begin_stream(self, row: Row) -> None:
        id_ = row["id"]
        if await self._store.find_streams([id_]):
            self._skip()
            return
        self._stream = row
        self._had = (await self._store.extents({id_: LAST}))[id_].last

    async def _event(self, event: EventRow) -> None:
        row = self._stream
        if row is None:
            return
        _, sequence, epoch, kind, codec, frame = event
        stream = event[STREAM] if self._renewed is None else self._renewed.stream(event[STREAM])
        if stream != row["id"]:
            raise ValueError("it is not of the stream before it")
        if event[SEQUENCE] > self._had:
            made = (stream, sequence, epoch, kind, codec, frame)
            self._changes.add_events(await self._recoder.events([made]))
            await self._flush_if_full()

    async def _end_stream(self) -> None:
        row, self._stream = self._stream, None
        if row is not None:
            kept = row["request"]
            whole = row | {"request": kept and self._recoder.request(row["id"], kept)}
            self._changes.add_stream(whole, is_new=True)
            await self._flush_if_full()

    async def _flush_if_full(self) -> None:
        if self._changes.is_full or len(self._changes.rows) >= _LINES:
            await self._flush()

    async def _flush(self) -> None:
        changes, self._changes = self._changes, Changes()
        if changes:
            await self._store.apply(changes, None)
        done = self.done
        self.done = replace(
            done,
            sessions=done.sessions + changes.count(Beside.SESSION),
            jobs=done.jobs + changes.count(Beside.JOB),
            streams=done.streams + len(changes.new_streams),
            events=done.events + len(changes.events),
        )
