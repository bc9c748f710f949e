"""A reverse proxy for MCP servers that nobody can modify: the same middleware, in front of one
small application that passes everything on (extra `proxy`)."""

from typing import Any

from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.ops.proxy.upstream import Options, Upstream

__all__ = ["Options", "Upstream", "proxy_app"]


def proxy_app(
    upstream: str, url: str | None = None, *, options: Options | None = None, **settings: Any
) -> PersistMiddleware:
    """An ASGI application that stands for an MCP server at another address.

    Args:
        upstream: the server's MCP endpoint, see `Upstream`.
        url: the store.
        options: how the upstream is spoken to.
        settings: as `PersistMiddleware` takes them.

    Raises:
        ConfigurationError: `upstream` is no URL of a server.
    """
    return PersistMiddleware(Upstream(upstream, options), url, **settings)
