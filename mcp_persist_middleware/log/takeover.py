"""How a stream changes hands. What a worker that is gone has left open is ended by another one, or
gone on with: in a new epoch, so that the old writer, should it come back, is fenced."""

import contextlib
import dataclasses
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog, Written
from mcp_persist_middleware.log.live import Limits, LiveStream
from mcp_persist_middleware.log.membership.peers import Peers, Verdict
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
from mcp_persist_middleware.protocol.event_id import EventIds

_ATTEMPTS = 3


class Takeover:
    """What one worker does with the streams that others have left.

    Args:
        kept_for: for how many seconds the stream of an owner is kept once it has ended.
    """

    def __init__(
        self,
        log: EventLog,
        peers: Peers,
        writer: Writer,
        worker: str,
        limits: Limits,
        kept_for: Callable[[Owner], float],
    ) -> None:
        self._log = log
        self._peers = peers
        self._writer = writer
        self._worker = worker
        self._limits = limits
        self._kept_for = kept_for

    async def left(self, record: StreamRecord) -> Verdict | None:
        """What is known of a stream's worker if it is gone and the stream is still open.

        Raises:
            StoreError: the store does not answer.
        """
        if record.state is not StreamState.OPEN or record.id in self._writer.live:
            return None
        if record.worker == self._worker:
            return Verdict(gone=True, seen_at=self._log.now())
        verdict = await self._peers.verify(record.worker)
        return verdict if verdict.gone else None

    async def end(self, record: StreamRecord, left: Verdict) -> StreamRecord | None:
        """End a stream whose worker is gone; see `end`."""
        return await end(self._log, record, self._kept_for(record.owner), left.seen_at)

    async def go_on(self, record: StreamRecord, request_id: RequestId) -> LiveStream | None:
        """Write a stream from now on whose worker is gone; None when somebody else was first.

        Args:
            request_id: of the request that it answers, as it stands in its event ids.

        Raises:
            StoreError: the store does not answer.
        """
        written = Written()

        async def next_epoch() -> StreamWrite:
            nonlocal written
            written = await self._log.written(record.id)
            held, epoch = record.epoch, record.epoch + 1
            return StreamWrite(record.id, epoch, takes_over=held, worker=self._worker)

        write, _ = await _take(self._log, record, next_epoch)
        if write is None:
            return None
        # The old writer is fenced. A last word of its that cannot be read now costs the stream its
        # log.
        with contextlib.suppress(StoreError):
            written = await self._log.written(record.id)
        taken = dataclasses.replace(record, epoch=write.epoch, worker=self._worker)
        ids = EventIds.of(record.id, record.kind, request_id)
        live = LiveStream(taken, ids, self._limits)
        live.go_on(*written)
        self._writer.go_on(live)
        return live


async def end(
    log: EventLog, record: StreamRecord, ttl: float, seen_at: float | None
) -> StreamRecord | None:
    """Take over an open stream, answer what it owes and close it, in one transaction; returns
    the record as it is then. Somebody else may be first: then theirs is the end.

    Args:
        seen_at: when its worker was last seen, if that is known; it was there when the stream
            began.

    Raises:
        StoreError: the store does not answer.
    """
    write, now = await _take(log, record, lambda: _last_write(log, record, ttl, seen_at))
    if write is None or write.ending is None:
        return now
    failed = write.ending.state is StreamState.FAILED
    telemetry.interrupted.add(failed, {"namespace": record.owner.namespace})
    return dataclasses.replace(
        record,
        epoch=write.epoch,
        state=write.ending.state,
        last_sequence=write.ending.last_sequence,
        ended_at=write.ending.ended_at,
    )


async def _take(
    log: EventLog, record: StreamRecord, make: Callable[[], Awaitable[StreamWrite]]
) -> tuple[StreamWrite | None, StreamRecord | None]:
    """Commit what takes an open stream over. It, or None when somebody else was first; and the
    stream as it was found last."""
    for _ in range(_ATTEMPTS):
        write = await make()
        (outcome,) = await log.append([write])
        if outcome is Outcome.COMMITTED:
            return write, record
        now = await log.find(record.id)
        if now is None or now.state is not StreamState.OPEN or now.epoch != record.epoch:
            return None, now
        # Its writer wrote until the takeover fenced it: there is more to take along.
    return None, record


async def _last_write(
    log: EventLog, record: StreamRecord, ttl: float, seen_at: float | None
) -> StreamWrite:
    unanswered = jsonrpc.pending(json.loads(record.request_ids))
    last, answers = await log.answers(record.id)
    for event in answers:
        unanswered.difference_update(_answered(event.frame))
    epoch, now = record.epoch + 1, log.now()
    name = EventIds.of(record.id, record.kind, None).name
    seen = datetime.fromtimestamp(max(seen_at or 0.0, record.created_at), UTC)
    data = {"stream": name, "lastSeen": seen.isoformat(timespec="milliseconds"), "events": last}
    errors = [
        jsonrpc.error(
            json.loads(key),
            "Interrupted: the worker that ran this request is gone; it was not run again",
            data,
            jsonrpc.INTERRUPTED,
        )
        for key in sorted(unanswered)
    ]
    events = tuple(
        Event(last + n, epoch, EventKind.RESPONSE, sse.event(error))
        for n, error in enumerate(errors, 1)
    )
    failed = record.kind is StreamKind.POST and bool(events)
    state = StreamState.FAILED if failed else StreamState.COMPLETE
    ending = Ending(state, last + len(events), now, now + ttl)
    return StreamWrite(record.id, epoch, takes_over=record.epoch, events=events, ending=ending)


def _answered(frame: bytes) -> tuple[str, ...]:
    frames = sse.FrameParser(len(frame) + 4).feed(frame + sse.CRLF)
    return jsonrpc.scan(frames[0].data)[1] if frames else ()
