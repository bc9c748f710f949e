"""What a request changes of that which revival repeats. It counts once the application has agreed:
an error, in whatever status it comes, changes nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mcp_persist_middleware.errors import EventTooLargeError
from mcp_persist_middleware.model import SessionRecord
from mcp_persist_middleware.protocol import coding, headers, jsonrpc, sse

# An application that agrees says little.
_MAX_ANSWER = 64 * 1024


@dataclass(slots=True)
class Change:
    """One `logging/setLevel`, `resources/subscribe` or `resources/unsubscribe`, until its answer
    is known."""

    method: str
    value: str
    """The level, or the resource."""
    request_id: Any
    _plain: coding.Plain
    _parser: sse.FrameParser | None = None
    _body: bytearray = field(default_factory=bytearray)

    @classmethod
    def of(cls, body: bytes, head: headers.RawHeaders) -> Self | None:
        """The change that a request asks for whose answer begins with `head`; None for others."""
        if b"logging/setLevel" not in body and b"resources/" not in body:
            return None
        parser = None
        if headers.media_type(head) == headers.EVENT_STREAM:
            parser = sse.FrameParser(_MAX_ANSWER)
        plain = coding.Plain(head, _MAX_ANSWER + 1)
        match _load(body):
            case {"method": "logging/setLevel", "params": {"level": str(level)}, "id": request_id}:
                return cls("logging/setLevel", level, request_id, plain, parser)
            case {
                "method": "resources/subscribe" | "resources/unsubscribe" as method,
                "params": {"uri": str(uri)},
                "id": request_id,
            }:
                return cls(method, uri, request_id, plain, parser)
            case _:
                return None

    def is_agreed(self, chunk: bytes) -> bool | None:
        """Whether the application has agreed, once its answer says so with this part of it."""
        if self._parser is None:
            self._body += self._plain.feed(chunk)
            return self._answer(bytes(self._body)) if len(self._body) <= _MAX_ANSWER else False
        try:
            found = [self._answer(frame.data) for frame in self._parser.feed(chunk)]
        except EventTooLargeError:
            return False
        return next((answer for answer in found if answer is not None), None)

    def _answer(self, data: bytes) -> bool | None:
        match _load(data):
            case {"id": answered, **rest} if "method" not in rest:
                if jsonrpc.key(answered) == jsonrpc.key(self.request_id):
                    return "result" in rest
        return None

    def of_record(self, record: SessionRecord) -> Mapping[str, Any]:
        """What becomes of a session's record."""
        known = record.subscriptions
        match self.method:
            case "logging/setLevel":
                return {"level": self.value}
            case "resources/subscribe":
                return {"subscriptions": known if self.value in known else (*known, self.value)}
            case _:
                return {"subscriptions": tuple(each for each in known if each != self.value)}


def _load(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
