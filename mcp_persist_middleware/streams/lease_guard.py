"""Nothing reaches the application through a worker that may be dead."""

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi import attempt
from mcp_persist_middleware.asgi.lent import LentRequest
from mcp_persist_middleware.errors import LeaseLostError
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.unpack import unpacked


class LeaseGuard:
    """The application as a worker may call it: with its lease, or not at all.

    It is asked in the very moment of the call, and with the context that was current when the
    request arrived: a request that waited in the socket of a stopped process, in a body that was
    being read or behind a question to the store meets the lease that has been lost, never the
    one that was taken afterwards. What has to be known first is whether it may still be run here.

    Raises:
        LeaseLostError: the application was not called.
    """

    def __init__(self, context: Context, app: ASGIApp) -> None:
        self._context = context
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._context.holds_lease:
            raise LeaseLostError
        attempt.spend()
        lent = LentRequest(receive, unpacked(scope, send))
        try:
            await self._app(scope, lent.receive, lent.send)
        finally:
            lent.take_back()


async def refuse(send: Send) -> None:
    """Answer that nothing was run, and that another attempt is welcome."""
    text = "Not run: this worker has lost its lease and begins anew"
    await asgi.unavailable(send, text, retry_after=1)
