"""A reverse proxy for MCP servers that nobody can modify: the same middleware, in front of one
small application that passes everything on (extra `proxy`)."""

from typing import Unpack

from mcp_persist_middleware import health
from mcp_persist_middleware.log.base import MakeLog
from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.ops.proxy.pool import UpstreamOptions
from mcp_persist_middleware.ops.proxy.upstream import Upstream
from mcp_persist_middleware.persistence import Persistence
from mcp_persist_middleware.settings import SettingsArguments, is_given

__all__ = ["Upstream", "UpstreamOptions", "proxy_app"]


def proxy_app(
    upstream: str,
    url: str | None = None,
    *,
    options: UpstreamOptions | None = None,
    log: MakeLog | None = None,
    persistence: Persistence | None = None,
    **settings: Unpack[SettingsArguments],
) -> PersistMiddleware:
    """An ASGI application that stands for an MCP server at another address.

    Args:
        upstream: the server's MCP endpoint, see `Upstream`.
        url: the store.
        options: how the upstream is spoken to.
        log, persistence, settings: as `PersistMiddleware` takes them; `health_path` is `/healthz`
            unless it, or a `persistence`, is given.

    Raises:
        ConfigurationError: `upstream` is no URL of a server.
    """
    server = Upstream(upstream, options)
    if persistence is None and not is_given("health_path", settings):
        settings["health_path"] = health.PATH
    made = PersistMiddleware(server, url, log=log, persistence=persistence, **settings)
    made.persistence.reports["circuit"] = lambda: server.breaker.state.value
    return made
