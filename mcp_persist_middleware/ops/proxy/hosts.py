"""Which names the proxy answers to.

A page that a browser has loaded from a name of its own may let that name point to this machine
later (DNS rebinding), and the upstream cannot see that: it is sent its own `Host`.
"""

from collections.abc import Collection

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware.protocol import headers

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""The names of this machine on itself."""


class AllowedHosts:
    """Answers 421 to a request for any other name, as the official SDK does.

    Args:
        names: as they stand in `Host`, without a port, IPv6 addresses in brackets.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _name(scope) not in self._names:
            text = "This name is not served here (--allowed-host)"
            await PlainTextResponse(text, 421)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _name(scope: Scope) -> str:
    host = (headers.get(scope["headers"], b"host") or "").lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def names_of(listening: str, allowed: Collection[str]) -> Collection[str] | None:
    """The names to answer to; None is any.

    Args:
        listening: the address that is listened on. Only this machine reaches a loopback address,
            by names of its own or through a proxy that has to be named.
        allowed: what an operator names, `*` for any.
    """
    if "*" in allowed:
        return None
    is_loopback = listening == "localhost" or listening.startswith("127.") or listening == "::1"
    if is_loopback:
        return {*LOOPBACK, listening, *allowed}
    return allowed or None
