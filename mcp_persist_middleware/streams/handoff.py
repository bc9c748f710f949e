"""What answers a request that takes too long, in the place of its own answer."""

from typing import TYPE_CHECKING, Protocol

from mcp_persist_middleware.protocol import headers

if TYPE_CHECKING:
    from mcp_persist_middleware.streams.pump import Exchange


class Handoff(Protocol):
    """Held by an exchange whose client may be told to ask for the answer later."""

    at: float
    """When (`time.monotonic`) it is told."""
    head: headers.RawHeaders
    """What the application would have given any answer to this caller, where it has not begun one:
    known when `may` has returned."""

    async def may(self) -> bool:
        """Whether the client may be told so at all. Asked when the time has come, twice where the
        answer begins meanwhile; the application may have to be asked for it."""

    async def take(self, running: "Exchange | None") -> bytes | None:
        """The JSON-RPC message that answers the request instead: from now on the exchange goes on
        without its client. None where the call has to stay a call. Called once, when the exchange
        has a stream."""
