"""The end of a stream whose worker is gone: every request without an answer gets an error, in a
new epoch, so that the old writer, should it come back, is fenced."""

import dataclasses
import json
from datetime import UTC, datetime

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import (
    Ending,
    Event,
    EventKind,
    Outcome,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.protocol import jsonrpc, sse
from mcp_persist_middleware.protocol.event_id import EventIds

_ATTEMPTS = 3


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
    for _ in range(_ATTEMPTS):
        write = await _last_write(log, record, ttl, seen_at)
        assert write.ending is not None
        (outcome,) = await log.append([write])
        if outcome is Outcome.COMMITTED:
            failed = write.ending.state is StreamState.FAILED
            telemetry.interrupted.add(failed, {"namespace": record.owner.namespace})
            return dataclasses.replace(
                record,
                epoch=write.epoch,
                state=write.ending.state,
                last_sequence=write.ending.last_sequence,
                ended_at=write.ending.ended_at,
            )
        now = await log.find(record.id)
        if now is None or now.state is not StreamState.OPEN or now.epoch != record.epoch:
            return now
        # Its writer wrote until the takeover fenced it: there is more to take along.
    return record


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
