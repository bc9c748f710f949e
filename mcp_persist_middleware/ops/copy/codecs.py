"""Payloads as the target's settings have them: what is bound to a stream, an epoch and a number is
bound to the same ones there."""

from collections.abc import Sequence

from mcp_persist_middleware.log.codecs.chain import RAW, Bound, Chain
from mcp_persist_middleware.log.codecs.parts import Blobs
from mcp_persist_middleware.model import SessionKey
from mcp_persist_middleware.ops.away import at_once, away
from mcp_persist_middleware.ops.copy.rows import (
    CODEC,
    EPOCH,
    KIND,
    PAYLOAD,
    SEQUENCE,
    STREAM,
    Beside,
    EventRow,
    Row,
    key_of,
)
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.packing import pack, unpack

# What a job keeps of its client.
_OF_JOB = ("request", "inputs")


def bound(event: EventRow) -> Bound:
    """What an event's payload belongs to."""
    return Bound.of_event(event[STREAM], event[EPOCH], event[SEQUENCE], event[KIND])


class Recoder:
    """From the codecs of one store's settings to those of another's. What cannot be read here (its
    key is missing, it is damaged) goes along as it is: nothing is lost, and who has the key reads
    it in its new place."""

    def __init__(self, source: Settings, target: Settings) -> None:
        self._from, self._to = Chain(source), Chain(target)
        self._from_blobs = Blobs(self._from, at_once)
        self._to_blobs = Blobs(self._to, at_once)
        self.unreadable = 0
        """How many payloads went along as they were."""

    async def events(self, events: Sequence[EventRow]) -> Sequence[EventRow]:
        """Events for the target."""
        if self._to.is_idle and not any(event[CODEC] for event in events):
            return events
        return await away(lambda: [self._event(event) for event in events])

    def _event(self, event: EventRow) -> EventRow:
        place = bound(event)
        try:
            frame = self._from.decode(event[CODEC], event[PAYLOAD], place)
        except ValueError:
            self.unreadable += 1
            return event
        codec, payload = self._to.encode(frame, place)
        stream, sequence, epoch, kind, _, _ = event
        return stream, sequence, epoch, kind, codec, payload

    def request(self, stream: bytes, kept: bytes) -> bytes:
        """The request that a stream keeps, for the target."""
        return self._blob(kept, Bound.of_request(stream))

    def row(self, table: Beside, row: Row) -> Row:
        """A row of a table beside, for the target."""
        match table:
            case Beside.SESSION:
                return self._session(row)
            case Beside.JOB:
                return row | {
                    name: row[name] and self._blob(row[name], _part_of(row, name))
                    for name in _OF_JOB
                }
            case Beside.JOURNAL:
                return row | {"params": self._blob(row["params"], Bound.of_entry(row["id"]))}

    def _session(self, row: Row) -> Row:
        try:
            body = unpack(row["initialize"])
        except ValueError:
            self.unreadable += 1
            return row
        return row | {"initialize": pack(self._blob(body, Bound.of_session(key_of(row))))}

    def _blob(self, blob: bytes, place: Bound) -> bytes:
        try:
            plain = self._from_blobs.decode(blob, place)
        except ValueError:
            self.unreadable += 1
            return blob
        return self._to_blobs.encode(plain, place)


class Decoder:
    """Payloads in the clear, whatever the settings were when they were written."""

    def __init__(self, settings: Settings) -> None:
        self._chain = Chain(settings)
        self._blobs = Blobs(self._chain, at_once)

    def frame(self, event: EventRow) -> bytes:
        """An event's frame.

        Raises:
            ValueError: it cannot be read here; the text says why.
        """
        if event[CODEC] == RAW:
            return event[PAYLOAD]
        return self._chain.decode(event[CODEC], event[PAYLOAD], bound(event))

    def request(self, stream: bytes, blob: bytes) -> bytes:
        """The request that a stream keeps.

        Raises:
            ValueError: it cannot be read here.
        """
        return self._blobs.decode(blob, Bound.of_request(stream))

    def job(self, row: Row) -> Row:
        """A job's row with what it keeps of its client.

        Raises:
            ValueError: it cannot be read here.
        """
        return row | {
            name: row[name] and self._blobs.decode(row[name], _part_of(row, name))
            for name in _OF_JOB
        }

    def params(self, row: Row) -> bytes:
        """The parameters that an entry of the journal keeps.

        Raises:
            ValueError: they cannot be read here.
        """
        return self._blobs.decode(row["params"], Bound.of_entry(row["id"]))

    def initialize(self, key: SessionKey, packed: bytes) -> bytes:
        """A session's `initialize` body.

        Raises:
            ValueError: it cannot be read here.
        """
        return self._blobs.decode(unpack(packed), Bound.of_session(key))


def _part_of(job: Row, name: str) -> Bound:
    return Bound.of_job(job["id"], name.encode())
