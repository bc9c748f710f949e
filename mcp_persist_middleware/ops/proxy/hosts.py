"""Which names the proxy answers to.

A page that a browser has loaded from a name of its own may let that name point to this machine
later (DNS rebinding), and the upstream cannot see that: it is sent its own `Host`.
"""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware.protocol import headers

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""The names of this machine on itself."""


class AllowedHosts:
    """Answers 421 to a request for any other name, as the official SDK does.

    Args:
        names: as they stand in `Host`, without a port, IPv6 addresses with brackets or without.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = bare(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and asked_for(scope["headers"]) not in self._names:
            text = "This name is not served here (--allowed-host)"
            await PlainTextResponse(text, 421)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def asked_for(raw: headers.RawHeaders) -> str:
    """The name that a request is for, as `bare` has it; empty where it says none."""
    return host_in(f"//{headers.get(raw, b'host') or ''}")


def host_in(url: str) -> str:
    """The host of a URL or an origin, as `bare` has it; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def bare(names: Collection[str]) -> frozenset[str]:
    """Names in lower case and without brackets."""
    return frozenset(name.lower().strip("[]") for name in names)


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
