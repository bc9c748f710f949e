"""Where the user has opted in: a request whose worker is gone is run again, on the same stream,
when its client comes back for it."""

import contextlib
import dataclasses
import logging

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import nowhere
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log import orphans
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import Outcome, RequestId, StreamRecord, StreamState, StreamWrite
from mcp_persist_middleware.protocol import classify
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.streams import authorise
from mcp_persist_middleware.streams.authorise import Verdict
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.streams.stored_request import StoredRequest

logger = logging.getLogger(__name__)


def is_wanted(context: Context, record: StreamRecord) -> bool:
    """What the `rerun` setting says of a request that was left behind."""
    asked = context.settings.rerun
    if asked is None or record.request is None:
        return False
    try:
        return bool(
            asked(record.owner.session or None, StoredRequest.unpack(record.request).message)
        )
    except Exception:
        # Nothing is run again by guess.
        logger.exception("The rerun setting raised; the request is not run again")
        return False


async def begin(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    body: Body,
    stream: bytes,
) -> Verdict | None:
    """Run a request again that was left behind, if nobody else does. What becomes of it is in the
    log; or the application refuses the caller: then nothing was run, and that is its answer.

    Raises:
        SessionElsewhereError: another worker is the session's home. Nothing was run.
        StoreError: the store does not answer. Nothing was run.
    """
    verdict = await authorise.ask(context, app, scope, revives=True)
    if verdict.refused:
        return verdict
    is_served = not request.session or 200 <= verdict.answer.status < 300
    # Of two clients on this worker the second one finds the stream of the first.
    async with context.taking_over:
        left = await _left(context, stream, verdict.caller)
        if left is None:
            return None
        record, seen_at = left
        if not is_served:
            # The session did not come back, or not for this caller.
            ttl = context.settings.kept_for(record.owner)
            await orphans.end(context.log, record, ttl, seen_at)
            return None
        call = request.call
        live = await _take_over(context, record, call.request_id if call is not None else None)
        if live is None:
            return None
        telemetry.reruns.add(1, {"namespace": record.owner.namespace})
        logger.info("A request whose worker is gone is run again, as the rerun setting says")
        running = Exchange(context, app, scope, request, nowhere)
        running.go_on(live)
        running.start(body)
    # From now on only a reader keeps it from being alone.
    live.detach()
    return None


async def _left(
    context: Context, stream: bytes, caller: Caller
) -> tuple[StreamRecord, float | None] | None:
    """A stream that is still open without a worker, and when that was last seen."""
    record = await context.log.find(stream)
    if stream in context.writer.live or record is None or record.state is not StreamState.OPEN:
        return None
    if not await caller.owns(record.owner):
        return None
    verdict = await context.peers.verify(record.worker)
    is_left = verdict.gone or record.worker == context.worker
    return (record, verdict.seen_at) if is_left else None


async def _take_over(
    context: Context, record: StreamRecord, request_id: RequestId
) -> LiveStream | None:
    """The stream, in a new epoch of this worker's; None when somebody else was first."""
    epoch, worker = record.epoch + 1, context.worker
    written = await context.log.written(record.id)
    write = StreamWrite(record.id, epoch, takes_over=record.epoch, worker=worker)
    (outcome,) = await context.log.append([write])
    if outcome is not Outcome.COMMITTED:
        return None
    # The old writer is fenced. A last word of its that cannot be read now costs the stream its log.
    with contextlib.suppress(StoreError):
        written = await context.log.written(record.id)
    ids = EventIds.of(record.id, record.kind, request_id)
    taken = dataclasses.replace(record, epoch=epoch, worker=worker)
    live = LiveStream(taken, ids, context.limits)
    live.go_on(*written)
    context.writer.go_on(live)
    return live
