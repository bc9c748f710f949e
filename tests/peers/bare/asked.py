"""A request as the raw application sees it, and the few ways in which it answers."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

STREAM = (b"content-type", b"text/event-stream")
JSON = (b"content-type", b"application/json")
# The names by which somebody is known: a key, or what an authenticating proxy passes on.
USERS = (
    "authorization",
    "x-api-key",
    "x-forwarded-user",
    "x-forwarded-email",
    "remote-user",
    "remote-email",
    "tailscale-user-login",
    "cf-access-authenticated-user-email",
    "x-goog-authenticated-user-email",
    "x-amzn-oidc-identity",
    "x-ms-client-principal-name",
    "x-authentik-uid",
    "x-pomerium-claim-email",
    "x-ssl-client-s-dn",
    "x-user-id",
    "x-tenant-id",
)


class Asked:
    """One request."""

    def __init__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self._send = scope, receive, send
        self.headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        self.message: Any = None

    @property
    def user(self) -> str:
        """Who asks."""
        return next((self.headers[name] for name in USERS if name in self.headers), "")

    async def body(self) -> bytes:
        """All of it."""
        parts, more = bytearray(), True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                break
            parts += message.get("body", b"")
            more = message.get("more_body", False)
        return bytes(parts)

    async def head(self, status: int, *headers: tuple[bytes, bytes]) -> None:
        """Begin."""
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers]})

    async def part(self, data: bytes, *, more: bool = True) -> None:
        """Some of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def plain(self, status: int, body: Any, *headers: tuple[bytes, bytes]) -> None:
        """A JSON answer with its length."""
        data = json.dumps(body).encode()
        await self.head(status, JSON, (b"content-length", b"%d" % len(data)), *headers)
        await self.part(data, more=False)

    async def event(self, message: Message, before: bytes = b"") -> None:
        """One event."""
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        await self.part(before + b"event: message\ndata: " + data + b"\n\n")

    async def result(self, value: Any, *headers: tuple[bytes, bytes]) -> None:
        """The answer as a stream of one event."""
        await self.head(200, STREAM, *headers)
        await self.event({"id": self.message["id"], "result": {"value": value}})
        await self.part(b"", more=False)
