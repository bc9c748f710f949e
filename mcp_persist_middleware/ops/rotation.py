"""Writes anew what is stored under another key than the current one, or under none: in small
transactions, beside a server that runs. What is done is done: whoever begins again goes on.

Relayed requests are left alone: they are gone in minutes.
"""

import asyncio
import operator
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import and_, literal, select, tuple_, update

from mcp_persist_middleware.log.codecs.chain import Bound, Chain
from mcp_persist_middleware.log.codecs.parts import Blobs
from mcp_persist_middleware.model import SessionKey
from mcp_persist_middleware.ops import key_use
from mcp_persist_middleware.ops.away import at_once
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.inspection import Inspection
from mcp_persist_middleware.stores.sql.log import SqlLog
from mcp_persist_middleware.stores.sql.packing import pack, unpack

T = TypeVar("T")

# Of what is written in one transaction; and how much longer than that took (of its time) others
# have the store.
_TOGETHER, _REST = 100, 0.5


@dataclass(slots=True)
class Rotated:
    """What was done."""

    events: int = 0
    sessions: int = 0
    requests: int = 0
    """Requests that are kept to be run again."""
    journal: int = 0
    """Rows of the journal that keep parameters."""
    jobs: int = 0
    """Jobs that keep what may be asked again."""
    unreadable: int = 0
    """What stays as it is: its key is not here, or it is damaged."""
    looked: int = 0


class Rotation:
    """One run, with settings that have keys.

    Raises:
        ConfigurationError: what they need is not installed.
    """

    def __init__(self, log: SqlLog, inspection: Inspection, settings: Settings) -> None:
        assert settings.encryption_keys is not None
        self._log = log
        self._store = inspection
        self._current = settings.encryption_keys.current
        self._chain = Chain(settings)
        self._blobs = Blobs(self._chain, at_once)
        self.done = Rotated()

    async def run(self, progress: Callable[[float], None]) -> Rotated:
        """Write anew all that is not under the current key.

        Raises:
            StoreError: the store does not do it.
        """
        async for page in key_use.pages(self._store):
            late = [h for h in page if key_use.key_of(h.codec, h.begins) != self._current]
            for part in _parts(late):
                await self._events([(head.stream, head.sequence) for head in part])
            self.done.looked += len(page)
            progress(self.done.looked)
        await self._sessions()
        await self._requests()
        await self._journal()
        await self._jobs()
        return self.done

    async def _events(self, places: Sequence[tuple[bytes, int]]) -> None:
        c, changes = self._log.tables.event.c, []
        for stream in dict.fromkeys(stream for stream, _ in places):
            numbers = [number for of, number in places if of == stream]
            for event in await self._store.events(stream, numbers):
                bound = Bound.of_event(stream, event.epoch, event.sequence, event.kind)
                try:
                    frame = self._chain.decode(event.codec, event.frame, bound)
                except ValueError:
                    self.done.unreadable += 1
                    continue
                codec, payload = self._chain.encode(frame, bound)
                # A number that was given again meanwhile, in a later epoch, is not this event.
                same = and_(c.stream == stream, c.sequence == event.sequence)
                same = and_(same, c.epoch == event.epoch, c.codec == event.codec)
                change = update(self._log.tables.event).where(same)
                changes.append(change.values(codec=codec, payload=payload))
        self.done.events += await self._write(changes)

    async def _sessions(self) -> None:
        table = self._log.tables.session
        c = table.c
        place, after = (c.namespace, c.path, c.id), SessionKey("", "", "")
        living = select(*place, c.initialize).where(c.deleted.is_(False)).order_by(*place)
        while page := await self._store.all(_behind(living, place, after).limit(_TOGETHER)):
            changes = []
            for *key, stored in page:
                after = SessionKey(*key)
                if (anew := self._session(stored, after)) is not None:
                    same = and_(*map(operator.eq, place, after), c.initialize == stored)
                    changes.append(update(table).where(same).values(initialize=pack(anew)))
            self.done.sessions += await self._write(changes)

    def _session(self, stored: bytes, key: SessionKey) -> bytes | None:
        try:
            return self._anew(unpack(stored), Bound.of_session(key))
        except ValueError:
            self.done.unreadable += 1
            return None

    async def _requests(self) -> None:
        table = self._log.tables.stream
        c = table.c
        # Only what is open keeps its request.
        kept = and_(c.ended_at.is_(None), c.request.is_not(None))
        names = [row[0] for row in await self._store.all(select(c.id).where(kept))]
        for part in _parts(names):
            changes = []
            for row in await self._store.all(select(c.id, c.request).where(c.id.in_(part))):
                anew = self._anew(row.request or b"", Bound.of_request(row.id))
                if anew is not None:
                    same = and_(c.id == row.id, c.request == row.request)
                    changes.append(update(table).where(same).values(request=anew))
            self.done.requests += await self._write(changes)

    async def _journal(self) -> None:
        table, after = self._log.tables.journal, ""
        c = table.c
        kept = select(c.id, c.params).where(c.params != b"").order_by(c.id).limit(_TOGETHER)
        while page := await self._store.all(kept.where(c.id > after)):
            changes, after = [], page[-1].id
            for row in page:
                if (anew := self._anew(row.params, Bound.of_entry(row.id))) is not None:
                    same = and_(c.id == row.id, c.params == row.params)
                    changes.append(update(table).where(same).values(params=anew))
            self.done.journal += await self._write(changes)

    async def _jobs(self) -> None:
        table, after = self._log.tables.job, b""
        c = table.c
        kept = select(c.id, c.request, c.inputs, c.revision).order_by(c.id).limit(_TOGETHER)
        while page := await self._store.all(kept.where(c.id > after)):
            changes, after = [], page[-1].id
            for row in page:
                parts = {"request": row.request or b"", "inputs": row.inputs}
                found = {
                    name: anew
                    for name, blob in parts.items()
                    if (anew := self._anew(blob, Bound.of_job(row.id, name.encode()))) is not None
                }
                if found:
                    same = and_(c.id == row.id, c.revision == row.revision)
                    changes.append(update(table).where(same).values(found))
            self.done.jobs += await self._write(changes)

    def _anew(self, blob: bytes, bound: Bound) -> bytes | None:
        """A blob under the current key; None where it is that already, empty or unreadable."""
        if not blob or key_use.key_of_blob(blob) == self._current:
            return None
        try:
            return self._blobs.encode(self._blobs.decode(blob, bound), bound)
        except ValueError:
            self.done.unreadable += 1
            return None

    async def _write(self, changes: Sequence[Any]) -> int:
        if not changes:
            return 0
        began = time.monotonic()
        counts = await self._log.execute_together(*changes)
        await asyncio.sleep((time.monotonic() - began) * _REST)
        return sum(counts)


def _behind(statement: Any, place: Sequence[Any], after: Sequence[str]) -> Any:
    values = (literal(value, column.type) for value, column in zip(after, place, strict=True))
    return statement.where(tuple_(*place) > tuple_(*values))


def _parts(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + _TOGETHER] for start in range(0, len(items), _TOGETHER))
