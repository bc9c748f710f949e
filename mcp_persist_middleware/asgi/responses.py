"""What we answer ourselves, in place of the application."""

import json

from starlette.types import Send


async def unavailable(send: Send, text: str, retry_after: int = 5) -> None:
    """The answer to a request that nothing was done for: 503, with a JSON-RPC error."""
    await refuse(send, 503, text, (b"retry-after", b"%d" % retry_after))


async def refuse(send: Send, status: int, text: str, *more: tuple[bytes, bytes]) -> None:
    """An answer of ours: a JSON-RPC error that is nobody's, with a status and `more` headers."""
    error = {"code": -32000, "message": text}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}, separators=(",", ":"))
    raw = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body.encode()})
