"""Clients in browsers: which pages may speak to the proxy (CORS)."""

import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware.errors import ConfigurationError

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")
_METHODS = ("GET", "POST", "DELETE")
# What a script may read beside the body: the session, how to log in, when to come back.
_EXPOSED = ("Mcp-Session-Id", "Mcp-Protocol-Version", "WWW-Authenticate", "Retry-After")
_POLICY = b"access-control-"


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application for pages of these origins as well. It has to be the outermost layer: a
    browser's preflight carries no credential, and is answered before anybody asks for one.

    Any request header may be sent: `Mcp-Session-Id`, `Mcp-Protocol-Version`, `Last-Event-ID`,
    `Mcp-Method`, `Mcp-Name`, and `Mcp-Param-…` and keys under names of the server's own.

    Args:
        origins: such as `https://app.example`, or `*` for any page.

    Raises:
        ConfigurationError: one of them is no origin, and no page could have it.
    """
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                reason=f"cors: expected an origin such as https://app.example, without a path, or "
                f"'*', not {origin!r}"
            )
    return CORSMiddleware(
        _Unsaid(app),
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=("*",),
        expose_headers=_EXPOSED,
    )


class _Unsaid:
    """Leaves out what the application itself tells browsers: there is one policy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def said(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", ()) if not _is_policy(pair[0])]
                message = {**message, "headers": kept}
            await send(message)

        await self._app(scope, receive, said if scope["type"] == "http" else send)


def _is_policy(name: bytes) -> bool:
    return name.lower().startswith(_POLICY)
