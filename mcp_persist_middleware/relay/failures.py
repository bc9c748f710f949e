"""What a client hears when there is no reply from its session's worker."""

from starlette.types import Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi import responses
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.protocol.classify import RequestKind
from mcp_persist_middleware.relay.outcome import RelayFailure

MOVING = "the session is moving between workers"
_LOST = (
    "Interrupted: the worker that ran this request is gone or cannot answer; it was not run again"
)
_UNSEALED = (
    "Not delivered: the call that this belongs to runs on another worker, and the credentials of "
    "this request cannot be sealed for it; install the extra 'relay' on every worker"
)
_TOO_LARGE = (
    "Not run: this session is on another worker, and no more than {} bytes travel there "
    "(max_event_bytes, max_body_bytes)"
)


async def answer(
    failure: RelayFailure, asked: Asked, send: Send, *, largest: int, retry_ms: int
) -> None:
    """Tell it.

    Args:
        largest: the most that travels between workers (bytes).
        retry_ms: when a client that has come back for a call is to come again.
    """
    match failure:
        case RelayFailure.CLIENT_GONE:
            return
        case RelayFailure.UNKNOWN_OUTCOME if asked.request.kind is RequestKind.EXCHANGE:
            call = asked.request.call
            await responses.end_calls(send, call.request_ids if call is not None else (), _LOST)
        case RelayFailure.UNKNOWN_OUTCOME:
            text = "Perhaps not run: the worker of this session is gone or cannot answer"
            await asgi.unavailable(send, text, retry_after=1)
        case RelayFailure.UNSEALED:
            await asgi.refuse(send, 409, _UNSEALED)
        case RelayFailure.TOO_LARGE:
            await asgi.refuse(send, 413, _TOO_LARGE.format(largest))
        case RelayFailure.QUEUE_FULL:
            text = "too much waits for the worker of this session, or runs there"
            await not_run(text, asked, send, retry_ms)
        case RelayFailure.TIMEOUT:
            await not_run("the worker of this session cannot be reached", asked, send, retry_ms)


async def not_run(why: str, asked: Asked, send: Send, retry_ms: int) -> None:
    """Another attempt is welcome, and soon."""
    if asked.resume is not None:
        # It waits in the log; an HTTP error would make its client give up.
        await responses.come_back(send, retry_ms, why)
    else:
        await asgi.unavailable(send, f"Not run: {why}", retry_after=1)
