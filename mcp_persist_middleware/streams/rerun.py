"""Where the user has opted in, or it only asks: a request whose worker is gone is run again, on the
same stream, when its client comes back for it."""

import logging
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import nowhere
from mcp_persist_middleware.log.membership import peers
from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.protocol import classify
from mcp_persist_middleware.streams import authorise
from mcp_persist_middleware.streams.authorise import Verdict
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.streams.stored_request import StoredRequest

logger = logging.getLogger(__name__)


def is_wanted(context: Context, record: StreamRecord) -> bool:
    """What the `rerun` setting says of a request that was left behind. One that asks us about a
    task does nothing, and an error would be read as the end of the task: it is asked again."""
    wanted = context.settings.rerun
    if record.request is None:
        return False
    try:
        kept = StoredRequest.unpack(record.request)
        if kept.only_asks:
            return True
        return wanted is not None and bool(wanted(record.owner.session or None, kept.message))
    except Exception:
        # Nothing is run again by guess.
        logger.exception("MPM-APP-04: The rerun setting raised; the request is not run again")
        return False


async def begin(
    context: Context,
    app: ASGIApp,
    scope: Scope,
    request: classify.Request,
    body: Body,
    stream: bytes,
    runs: Callable[[Caller], Awaitable[ASGIApp | None]] | None = None,
    *,
    outlives: float | None = None,
) -> Verdict | None:
    """Run a request again that was left behind, if nobody else does. What becomes of it is in the
    log; or the application refuses the caller: then nothing was run, and that is its answer.

    Args:
        runs: tells what answers a caller, where that is not the application.
        outlives: that nobody need read it, for so many seconds.

    Raises:
        SessionElsewhereError: another worker is the session's home. Nothing was run.
        StoreError: the store does not answer. Nothing was run.
    """
    verdict = await authorise.ask(context, app, scope, revives=True)
    if verdict.refused:
        return verdict
    is_served = not request.session or 200 <= verdict.answer.status < 300
    answers = await runs(verdict.caller) if runs is not None else None
    # Of two clients on this worker the second one finds the stream of the first.
    async with context.taking_over:
        found = await _left(context, stream, verdict.caller)
        if found is None:
            return None
        record, left = found
        if not is_served:
            # The session did not come back, or not for this caller.
            await context.takeover.end(record, left)
            return None
        number = request.call.request_id if request.call is not None else None
        live = await context.takeover.go_on(record, number)
        if live is not None:
            telemetry.reruns.add(1, {"namespace": record.owner.namespace})
            logger.info("A request whose worker is gone is run again")
            running = Exchange(context, answers or app, scope, request, nowhere)
            running.go_on(live)
            running.start(body)
            if outlives is not None:
                running.recorder.kept = outlives
                running.outlive(outlives)
            # From now on only a reader keeps it from being alone.
            live.detach()
    return None


async def _left(
    context: Context, stream: bytes, caller: Caller
) -> tuple[StreamRecord, peers.PeerStatus] | None:
    """A stream of the caller's that is still open without a worker, and what is known of that."""
    record = await context.log.find(stream)
    if record is None or not await caller.owns(record.owner):
        return None
    left = await context.takeover.left(record)
    return (record, left) if left is not None else None
