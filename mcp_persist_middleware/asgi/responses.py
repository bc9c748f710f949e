"""What we answer ourselves, in place of the application: every such answer is one of these."""

import json
from collections.abc import Iterable

from starlette.types import Send

from mcp_persist_middleware.model import RequestId
from mcp_persist_middleware.protocol import headers, jsonrpc, sse


async def unavailable(send: Send, text: str, retry_after: int = 5) -> None:
    """503: nothing was done for this request, and it is welcome again in so many seconds."""
    await refuse(send, 503, text, (b"retry-after", b"%d" % retry_after))


async def not_deleted_yet(send: Send) -> None:
    """503: a session may live on, for the store has not heard of its deletion."""
    await unavailable(send, "The deletion is not recorded yet; ask again")


async def refuse(send: Send, status: int, text: str, *more: headers.RawHeader) -> None:
    """A status with a JSON-RPC error that is nobody's, and `more` headers."""
    error = {"code": jsonrpc.INTERRUPTED, "message": text}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}, separators=(",", ":"))
    await _answer(send, status, body.encode(), (b"content-type", b"application/json"), *more)


async def answer_json(
    send: Send, message: bytes, *more: headers.RawHeader, status: int = 200
) -> None:
    """A JSON-RPC response, with `more` headers."""
    await _answer(send, status, message, (b"content-type", b"application/json"), *more)


async def not_found(send: Send, text: str) -> None:
    """404: what the request names is not ours, and it may begin anew without it."""
    plain = (b"content-type", b"text/plain; charset=utf-8")
    await _answer(send, 404, text.encode(), plain)


async def done(send: Send) -> None:
    """200: what was asked for is done, and there is nothing more to say."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body", "body": b""})


async def read_to_the_end(send: Send) -> None:
    """204: nothing is left to read, and there is no need to come back."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def come_back(send: Send, retry_ms: int, why: str = "the store is unavailable") -> None:
    """Nothing can be said now: an empty stream brings its client back in so many milliseconds. An
    HTTP error would make most clients give up."""
    await _stream(send, sse.comment(why) + sse.retry(retry_ms))


async def end_calls(send: Send, request_ids: Iterable[RequestId], text: str) -> None:
    """Each of these calls ends with a JSON-RPC error, on a stream without ids: an HTTP error would
    leave most clients waiting for their answer."""
    errors = (
        jsonrpc.error(each, text, {"resumable": False}, jsonrpc.INTERRUPTED) for each in request_ids
    )
    await _stream(send, b"".join(sse.event(error) + sse.CRLF for error in errors))


async def _answer(send: Send, status: int, body: bytes, *raw: headers.RawHeader) -> None:
    told = [*raw, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Send, body: bytes) -> None:
    told = headers.stream_head([])
    await send({"type": "http.response.start", "status": 200, "headers": told})
    await send({"type": "http.response.body", "body": body})
