"""A request as it is kept with its stream, so that it can be run again: bytes in, bytes out."""

import json
from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.protocol import callers, classify, headers

# A larger request is not kept: it ends with an error, as without the setting.
_MOST_BYTES = 64 * 1024
# What says how the body is to be read. Who asks is said by the client that comes back.
_KEPT = (b"content-type", b"accept")
_PREFIX = b"mcp-"


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """The request, without anything that could be a credential."""

    headers: list[tuple[bytes, bytes]]
    body: bytes
    only_asks: bool = False
    """It is a question that we answer: to ask it again does nothing, whatever the settings say."""

    @classmethod
    def of(
        cls, request: classify.Request, scope: Scope, body: bytes, *, asks: bool = False
    ) -> "StoredRequest | None":
        """What is kept of a request; None when it cannot be run again: a batch may have been
        answered in part, and an `initialize` begins something else."""
        call = request.call
        if call is None or len(call.request_ids) != 1 or call.is_initialize:
            return None
        found = [
            (name.lower(), value)
            for name, value in scope["headers"]
            if (name.lower() in _KEPT or name.lower().startswith(_PREFIX))
            and name.lower() != headers.SESSION_ID
            and not callers.secrets([(name, value)])
        ]
        kept = cls(found, body, asks)
        return kept if body.lstrip()[:1] == b"{" and len(kept.pack()) <= _MOST_BYTES else None

    @classmethod
    def packed(
        cls, request: classify.Request, scope: Scope, body: Body, *, asks: bool
    ) -> bytes | None:
        """What is kept of a request, as bytes."""
        kept = cls.of(request, scope, body.content, asks=asks)
        return kept.pack() if kept is not None else None

    def pack(self) -> bytes:
        """As bytes."""
        texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers]
        head = {"headers": texts, "only_asks": True} if self.only_asks else texts
        return json.dumps(head).encode() + b"\n" + self.body

    @classmethod
    def unpack(cls, data: bytes) -> "StoredRequest":
        """From bytes."""
        line, _, body = data.partition(b"\n")
        match json.loads(line):
            case {"headers": texts, "only_asks": only_asks}:
                pass
            case texts:
                only_asks = False
        found = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in texts]
        return cls(found, body, only_asks)

    @property
    def message(self) -> dict[str, Any]:
        """The JSON-RPC request."""
        message: dict[str, Any] = json.loads(self.body)
        return message

    def scope(self, of: Scope) -> Scope:
        """The scope of this request when the caller of another one makes it."""
        again = asgi.question(of, "POST")
        others = headers.without(again["headers"], *(name for name, _ in self.headers))
        return {**again, "headers": others + self.headers}

    def request(self, of: classify.Request) -> classify.Request:
        """What it is, in the session and era of the request that asks for it again."""
        head = classify.Request(classify.RequestKind.BODY, of.era, of.session)
        return classify.by_body(head, self.headers, self.body, known_path=True)
