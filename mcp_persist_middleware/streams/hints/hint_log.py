"""What the workers let each other know of a place: one short stream, which whoever has something to
say takes over and goes on with."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog, Written
from mcp_persist_middleware.model import (
    Ending,
    Event,
    EventKind,
    Outcome,
    Owner,
    Place,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.protocol import sse
from mcp_persist_middleware.protocol.hints import Filter, Hint

_OWNER = "hints"
"""Whose these streams are: no caller is ever called so."""
_KEPT, _KEPT_SECONDS = 256, 3600.0
_PAGE = (256, 1024 * 1024)
_ATTEMPTS = 8
# Of a filter so many bytes are told.
_LONGEST = 32 * 1024


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that a worker lets the others know."""

    kind: Literal["hint", "on", "off", "want"]
    """The application gave a hint; a listen began; its client left; what all listens of the
    worker want."""
    worker: str
    at: float
    """The time in the store."""
    hint: Hint = Hint("")
    key: str = ""
    """Of a listen: whose it is, and for what, as a keyed hash."""
    wanted: Filter = Filter()

    def frame(self) -> bytes:
        """It, as an event's frame."""
        told: dict[str, Any] = {"kind": self.kind, "worker": self.worker, "at": self.at}
        match self.kind:
            case "hint":
                told |= {"method": self.hint.method, "uri": self.hint.uri}
            case "want":
                told["wanted"] = _shortened(self.wanted).params
            case _:
                told["key"] = self.key
        return sse.event(json.dumps(told, separators=(",", ":")).encode())

    @classmethod
    def of(cls, frame: bytes) -> "Note | None":
        """The note in a frame; None where it is none that this release knows."""
        try:
            told = json.loads(frame.partition(b"data: ")[2])
            return cls(
                told["kind"],
                str(told["worker"]),
                float(told["at"]),
                Hint(str(told.get("method", "")), str(told.get("uri", ""))),
                str(told.get("key", "")),
                Filter.of(told.get("wanted")),
            )
        except (ValueError, KeyError, TypeError):
            return None


def _shortened(wanted: Filter) -> Filter:
    uris, size = list[str](), 0
    for uri in sorted(wanted.uris):
        size += len(uri)
        if size > _LONGEST:
            break
        uris.append(uri)
    return Filter(wanted.lists, frozenset(uris))


class HintLog:
    """The stream of a place, as one worker reads and writes it."""

    def __init__(self, log: EventLog, worker: str, place: Place) -> None:
        self._log = log.shared
        self._worker = worker
        self._place = place
        digest = hashlib.blake2b(
            "\0".join(place).encode(), key=log.secret, person=b"hints", digest_size=16
        )
        self.wakeups = self._log.wakeups
        self.id = digest.digest()
        """Known to every worker on this store, and to nobody else."""
        self._record: StreamRecord | None = None
        self._written = Written()
        self._is_known = False
        self._position = 0
        self._created_at = 0.0

    async def read(self) -> list[Note]:
        """The notes that came since the last call; at the first one all that there are.

        Raises:
            StoreError: the store does not answer.
        """
        created_at, position = self._created_at, self._position
        found = await self._after(position)
        if not (found and position):
            record = await self._log.find(self.id)
            created_at = record.created_at if record is not None else 0.0
            if position and created_at != self._created_at:
                # It was removed meanwhile, and may have begun anew.
                position, found = 0, await self._after(0)
        # At the end: whoever gives up in the middle has read nothing.
        self._created_at = created_at
        self._position = found[-1].sequence if found else position
        notes = (Note.of(event.frame) for event in found)
        return [note for note in notes if note is not None]

    async def _after(self, position: int) -> list[Event]:
        found: list[Event] = []
        while events := await self._log.read(self.id, position, *_PAGE):
            position = events[-1].sequence
            found += events
        return found

    async def append(self, notes: Sequence[Note]) -> None:
        """Let the other workers know.

        Raises:
            StoreError: the store does not do it, or others always were faster.
        """
        for _ in range(_ATTEMPTS):
            record = self._record if self._is_known else await self._look()
            if record is None:
                # Of two that begin it at once neither hears that it was the second: the row says.
                await self._log.append([StreamWrite(self.id, 1, create=self._made())])
                continue
            write = self._write(record, notes)
            (outcome,) = await self._log.append([write])
            if outcome is not Outcome.FENCED:
                self._took(record, write)
                return
            self._is_known = False
        raise StoreError(url=self._log.name, reason="other workers always were faster")

    async def end(self) -> None:
        """This worker leaves: if it was the last one that wrote, the stream has ended for now.

        Raises:
            StoreError: the store does not do it.
        """
        if self._is_known and self._record is not None:
            now = self._log.now()
            ending = Ending(StreamState.COMPLETE, self._written.last, now, now + _KEPT_SECONDS)
            await self._log.append([StreamWrite(self.id, self._record.epoch, ending=ending)])
        self._is_known = False

    async def _look(self) -> StreamRecord | None:
        record = await self._log.find(self.id)
        written = await self._log.written(self.id)
        last = max(written.last, record.last_sequence if record is not None else 0)
        self._record, self._written = record, written._replace(last=last)
        self._is_known = record is not None
        return record

    def _write(self, record: StreamRecord, notes: Sequence[Note]) -> StreamWrite:
        last, epoch = self._written.last, record.epoch
        goes_on = record.worker == self._worker and record.state is StreamState.OPEN
        write = StreamWrite(self.id, epoch if goes_on else epoch + 1)
        write.events = tuple(
            Event(last + n, write.epoch, EventKind.NOISE, note.frame())
            for n, note in enumerate(notes, 1)
        )
        if goes_on:
            write.trim = max(0, self._written.events + len(notes) - _KEPT)
        else:
            write.takes_over, write.worker = epoch, self._worker
        return write

    def _took(self, record: StreamRecord, write: StreamWrite) -> None:
        taken = replace(record, epoch=write.epoch, worker=self._worker)
        self._record = replace(taken, state=StreamState.OPEN)
        events = self._written.events + len(write.events) - write.trim
        self._written = self._written._replace(last=write.events[-1].sequence, events=events)

    def _made(self) -> StreamRecord:
        return StreamRecord(
            id=self.id,
            kind=StreamKind.GET,
            owner=Owner(*self._place, "", _OWNER),
            epoch=1,
            state=StreamState.OPEN,
            last_sequence=0,
            worker=self._worker,
            created_at=self._log.now(),
            ended_at=None,
            expires_at=None,
            request_ids="[]",
            trace="",
        )
