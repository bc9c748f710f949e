"""What is answered in the place of an upstream."""

from starlette.responses import JSONResponse
from starlette.types import Message, Scope, Send

_JSONRPC_ERROR = -32000


class NotSentError(Exception):
    """A request was not handed over: no byte of it has gone to the upstream, and none of an answer
    to the client. It may be handed to another."""

    def __init__(self, status: int, text: str, retry_after: int, reason: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after
        self.reason = reason or text
        """For the operator, not for clients."""

    async def refuse(self, scope: Scope, send: Send) -> None:
        """Say so to the client."""
        await refuse(scope, send, self.status, str(self), self.retry_after)


class UnreachableError(NotSentError):
    """Because no connection came about."""


async def refuse(
    scope: Scope, send: Send, status: int, text: str, retry_after: int | None = None
) -> None:
    """Answer with an error.

    Args:
        retry_after: in so many seconds it may be otherwise.
    """
    error = {"code": _JSONRPC_ERROR, "message": text}
    body = {"jsonrpc": "2.0", "id": None, "error": error}
    after = {"Retry-After": str(retry_after)} if retry_after is not None else None

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    await JSONResponse(body, status, headers=after)(scope, nothing, send)
