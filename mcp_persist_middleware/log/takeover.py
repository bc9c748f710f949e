"""How a stream changes hands. What a worker has left is ended by another one, or gone on with: in a
new epoch, so that the old writer, should it come back, is fenced.

A POST stream goes on only while it is open, and that its worker is gone is asked first. A session's
own stream (GET) goes on for as long as the session lives: an end is the end of an epoch, its next
one is begun by whichever worker is the session's home then.
"""

import contextlib
import dataclasses
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog, Written
from mcp_persist_middleware.log.live import Limits, LiveStream
from mcp_persist_middleware.log.membership.peers import Peers, PeerStatus
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.model import (
    Ending,
    Event,
    EventKind,
    Outcome,
    Owner,
    RequestId,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.protocol import jsonrpc, sse
from mcp_persist_middleware.protocol.event_id import EventIds, Position

_ATTEMPTS = 3
_PAGE_EVENTS, _PAGE_BYTES = 256, 1024 * 1024
_GONE = "Interrupted: the worker that ran this request is gone; it was not run again"


class Takeover:
    """What one worker does with the streams that others have left.

    Args:
        kept_for: for how many seconds the stream of an owner is kept once it has ended.
        on_failed: told of each stream that was ended here with an error.
    """

    def __init__(
        self,
        log: EventLog,
        peers: Peers,
        writer: Writer,
        worker: str,
        limits: Limits,
        kept_for: Callable[[Owner], float],
        on_failed: Callable[[StreamRecord], None] | None = None,
    ) -> None:
        self._log = log
        self._peers = peers
        self._writer = writer
        self._worker = worker
        self._limits = limits
        self._kept_for = kept_for
        self._on_failed = on_failed
        # What the store knows to be written here before it is, or while it is stopped from here.
        self._going_on: set[bytes] = set()

    def _is_here(self, stream: bytes) -> bool:
        return stream in self._writer.live or stream in self._going_on

    @contextlib.contextmanager
    def holding(self, stream: bytes) -> Iterator[None]:
        """Meanwhile it is no stream that was left, whatever the store says."""
        self._going_on.add(stream)
        try:
            yield
        finally:
            self._going_on.discard(stream)

    async def left(self, record: StreamRecord) -> PeerStatus | None:
        """What is known of a stream's worker if it is gone and the stream is still open.

        Raises:
            StoreError: the store does not answer.
        """
        if record.state is not StreamState.OPEN or self._is_here(record.id):
            return None
        if record.worker == self._worker:
            return PeerStatus(gone=True, seen_at=self._log.now())
        peer = await self._peers.verify(record.worker)
        return peer if peer.gone else None

    async def end(self, record: StreamRecord, left: PeerStatus) -> StreamRecord | None:
        """End a stream whose worker is gone; see `end`."""
        kept = self._kept_for(record.owner)
        return await end(self._log, record, kept, left.seen_at, _GONE, self._on_failed)

    async def go_on(
        self, record: StreamRecord, request_id: RequestId = None, *, given: int = 0
    ) -> LiveStream | None:
        """Write a stream from now on; None when somebody else does, or it is over.

        Args:
            request_id: of the request that it answers, as it stands in its event ids.
            given: the last number that a client is known to have, whatever the store has.

        Raises:
            StoreError: the store does not answer.
        """
        is_kept = record.expires_at is None or record.expires_at > self._log.now()
        if not is_kept or self._is_here(record.id):
            return None
        with self.holding(record.id):
            return await self._go_on(record, request_id, given)

    async def _go_on(
        self, record: StreamRecord, request_id: RequestId, given: int
    ) -> LiveStream | None:
        written = Written()

        async def next_epoch(found: StreamRecord) -> StreamWrite:
            nonlocal written
            written = await self._log.written(found.id)
            held, epoch = found.epoch, found.epoch + 1
            return StreamWrite(found.id, epoch, takes_over=held, worker=self._worker)

        goes_on = record.kind is StreamKind.GET
        write, found = await _take(self._log, record, next_epoch, goes_on=goes_on)
        if write is None or found is None:
            return None
        # The old writer is fenced. A last word of its that cannot be read now costs the stream its
        # log.
        with contextlib.suppress(StoreError):
            written = await self._log.written(record.id)
        ids = EventIds.of(record.id, record.kind, request_id)
        live = LiveStream(_taken(found, write.epoch, self._worker), ids, self._limits)
        live.go_on(max(written.last, found.last_sequence, given), written.events, written.size)
        self._writer.go_on(live)
        return live


async def end(
    log: EventLog,
    record: StreamRecord,
    ttl: float,
    seen_at: float | None,
    why: str = _GONE,
    on_failed: Callable[[StreamRecord], None] | None = None,
    /,
    **data: object,
) -> StreamRecord | None:
    """Take over an open stream, answer what it owes and close it, in one transaction; returns
    the record as it is then. Somebody else may be first: then theirs is the end.

    Args:
        seen_at: when its worker was last seen, if that is known; it was there when the stream
            began.
        why: what is answered to the requests that have no answer.
        on_failed: told of the stream, if it was ended here with an error.
        data: more of what their errors say.

    Raises:
        StoreError: the store does not answer.
    """
    error = why, data
    write, now = await _take(log, record, lambda _: _last_write(log, record, ttl, seen_at, error))
    if write is None or write.ending is None:
        return now
    if (first := await _first(log, record.id, write.ending)) is not None:
        return first
    failed = write.ending.state is StreamState.FAILED
    telemetry.interrupted.add(failed, {"namespace": record.owner.namespace})
    ended = dataclasses.replace(
        record,
        epoch=write.epoch,
        state=write.ending.state,
        last_sequence=write.ending.last_sequence,
        ended_at=write.ending.ended_at,
    )
    if failed and on_failed is not None:
        on_failed(ended)
    return ended


async def _first(log: EventLog, stream: bytes, ending: Ending) -> StreamRecord | None:
    """A stream that somebody else has ended, in the same words: to a store those are one write."""
    with contextlib.suppress(StoreError):
        found = await log.find(stream)
        if found is not None and found.ended_at != ending.ended_at:
            return found
    return None


def _taken(record: StreamRecord, epoch: int, worker: str) -> StreamRecord:
    opened = dataclasses.replace(record, epoch=epoch, worker=worker, state=StreamState.OPEN)
    return dataclasses.replace(opened, last_sequence=0, ended_at=None, expires_at=None)


async def _take(
    log: EventLog,
    record: StreamRecord,
    make: Callable[[StreamRecord], Awaitable[StreamWrite]],
    *,
    goes_on: bool = False,
) -> tuple[StreamWrite | None, StreamRecord | None]:
    """Commit what takes a stream over. It, or None when somebody else was first; and the stream as
    it was before that.

    Args:
        goes_on: that somebody else has ended it meanwhile is no reason to leave it.
    """
    for _ in range(_ATTEMPTS):
        write = await make(record)
        (outcome,) = await log.append([write])
        if outcome is Outcome.COMMITTED:
            return write, record
        now = await log.find(record.id)
        is_open = now is not None and now.state is StreamState.OPEN and now.epoch == record.epoch
        if now is None or not (is_open or (goes_on and now.state is not StreamState.OPEN)):
            return None, now
        # Its writer wrote until the takeover fenced it: there is more to take along.
        record = now
    return None, record


async def rewound(log: EventLog, position: Position, record: StreamRecord) -> Position:
    """A cursor behind the last event of its epoch that the store has. A worker may have died with
    events that only its client has seen; then a later epoch has given their numbers again, or will:
    as long as that is not known the cursor stays in its epoch, else it is in the stream's.

    Raises:
        StoreError: the store does not answer.
    """
    if not position.sequence or position.epoch >= record.epoch:
        return position
    found = await log.read(record.id, position.sequence - 1, 1, 1)
    if found and found[0].sequence == position.sequence and found[0].epoch <= position.epoch:
        return dataclasses.replace(position, epoch=record.epoch)
    after = 0
    while page := await log.read(record.id, after, _PAGE_EVENTS, _PAGE_BYTES):
        for event in page:
            if event.epoch > position.epoch:
                first = min(position.sequence, event.sequence - 1)
                return dataclasses.replace(position, epoch=record.epoch, sequence=first)
        after = page[-1].sequence
    return position


async def _last_write(
    log: EventLog,
    record: StreamRecord,
    ttl: float,
    seen_at: float | None,
    error: tuple[str, dict[str, object]],
) -> StreamWrite:
    unanswered = jsonrpc.pending(json.loads(record.request_ids))
    last, answers = await log.answers(record.id)
    for event in answers:
        unanswered.difference_update(_answered(event.frame))
    epoch, now = record.epoch + 1, log.now()
    name = EventIds.of(record.id, record.kind, None).name
    seen = datetime.fromtimestamp(max(seen_at or 0.0, record.created_at), UTC)
    why, more = error
    data = {
        "stream": name,
        "lastSeen": seen.isoformat(timespec="milliseconds"),
        "events": last,
        **more,
    }
    errors = [
        jsonrpc.error(json.loads(key), why, data, jsonrpc.INTERRUPTED) for key in sorted(unanswered)
    ]
    events = tuple(
        Event(last + n, epoch, EventKind.RESPONSE, sse.event(error))
        for n, error in enumerate(errors, 1)
    )
    state = StreamState.FAILED if events else StreamState.COMPLETE
    ending = Ending(state, last + len(events), now, now + ttl)
    return StreamWrite(record.id, epoch, takes_over=record.epoch, events=events, ending=ending)


def _answered(frame: bytes) -> tuple[str, ...]:
    data = sse.data_of(frame)
    return jsonrpc.scan(data)[1] if data else ()
