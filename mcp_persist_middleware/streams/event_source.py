"""The body of an event stream of ours, as sse-starlette sends it."""

from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse

from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.streams.clean_close import KeepAlive

_SELDOM = 86_400


def response(
    settings: Settings, chunks: AsyncIterator[bytes], head: headers.RawHeaders
) -> EventSourceResponse:
    """A response with keep-alives; it is sent through a `CleanClose`.

    Args:
        head: what the application began its own with.
    """
    made = EventSourceResponse(
        chunks,
        # Releases of sse-starlette before its issue 206 take 0 for "without a pause".
        ping=settings.ping_seconds or _SELDOM,
        ping_message_factory=KeepAlive,
        send_timeout=settings.send_timeout,
        # We leave by ourselves in time; this is for a client that takes nothing meanwhile.
        shutdown_grace_period=settings.drain_seconds + 1,
    )
    made.raw_headers = headers.stream_head(head)
    return made
