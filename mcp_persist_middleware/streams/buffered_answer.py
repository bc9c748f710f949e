"""An answer that is not an event stream, for a stream that was opened before it began."""

from mcp_persist_middleware.errors import EventTooLargeError
from mcp_persist_middleware.model import EventKind, RequestId
from mcp_persist_middleware.protocol import coding, headers, jsonrpc


class BufferedAnswer:
    """Collects the answer and turns it into the one message that ends the stream."""

    def __init__(self, status: int, raw: headers.RawHeaders, limit: int) -> None:
        self.status = status
        self.headers = raw
        self._limit = limit
        self._plain = coding.Plain(raw, limit + 1)
        self._body = bytearray()

    def add(self, part: bytes) -> None:
        """Take the next part of the body; of one that is larger than an event may be, no more
        than that is kept.
        """
        self._body += self._plain.feed(part)

    def as_message(self, request_id: RequestId) -> bytes:
        """The body itself when it is a JSON-RPC answer, else a JSON-RPC error with its status."""
        body = bytes(self._body)
        if len(body) > self._limit:
            text = str(EventTooLargeError(limit=self._limit))
            return jsonrpc.error(request_id, text, {"status": self.status}, jsonrpc.INTERRUPTED)
        if headers.media_type(self.headers) == b"application/json":
            kind, answered = jsonrpc.scan(body)
            if kind is EventKind.RESPONSE and jsonrpc.key(request_id) in answered:
                return body
        text = f"The server answered with HTTP status {self.status}"
        return jsonrpc.error(request_id, text, {"status": self.status}, jsonrpc.INTERRUPTED)
