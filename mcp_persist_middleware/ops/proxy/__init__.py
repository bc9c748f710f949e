"""A reverse proxy for MCP servers that nobody can modify: the same middleware, in front of one
small application that passes everything on (extra `proxy`)."""

from collections.abc import Sequence
from typing import Unpack

from mcp_persist_middleware import health
from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.log.base import MakeLog
from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.ops.proxy.cors import with_cors
from mcp_persist_middleware.ops.proxy.pool import UpstreamOptions
from mcp_persist_middleware.ops.proxy.replicas import Replicas
from mcp_persist_middleware.ops.proxy.upstream import Upstream
from mcp_persist_middleware.persistence import Persistence
from mcp_persist_middleware.settings import SettingsArguments, is_given

__all__ = ["Replicas", "Upstream", "UpstreamOptions", "proxy_app", "with_cors"]


def proxy_app(
    upstream: str | Sequence[str],
    url: str | None = None,
    *,
    options: UpstreamOptions | None = None,
    log: MakeLog | None = None,
    persistence: Persistence | None = None,
    **settings: Unpack[SettingsArguments],
) -> PersistMiddleware:
    """An ASGI application that stands for an MCP server at another address.

    Args:
        upstream: the server's MCP endpoint, see `Upstream`; or those of several servers that do the
            same, see `Replicas`.
        url: the store.
        options: how the upstream is spoken to.
        log, persistence, settings: as `PersistMiddleware` takes them; `health_path` is `/healthz`
            unless it, or a `persistence`, is given.

    Raises:
        ConfigurationError: `upstream` is no URL of a server.
    """
    made = servers([upstream] if isinstance(upstream, str) else upstream, options)
    server = made[0] if len(made) == 1 else Replicas(made)
    if persistence is None and not is_given("health_path", settings):
        settings["health_path"] = health.PATH
    app = PersistMiddleware(server, url, log=log, persistence=persistence, **settings)
    app.persistence.reports["circuit"] = server.circuit
    return app


def servers(urls: Sequence[str], options: UpstreamOptions | None = None) -> list[Upstream]:
    """The servers at these addresses.

    Raises:
        ConfigurationError: there is none, or one of them twice; one is no URL of a server; or
            they have their endpoints at several paths, and `options.path` says nothing of it.
    """
    made = [Upstream(url, options, number=number) for number, url in enumerate(urls, 1)]
    if not urls or len(set(urls)) < len(urls):
        raise ConfigurationError(
            reason=f"upstream: expected one server or several different ones, not {list(urls)}"
        )
    paths = {server.pool.path for server in made}
    if len(paths) > 1 and made[0].pool.options.path is None:
        raise ConfigurationError(
            reason=f"upstream: the paths differ ({', '.join(sorted(paths))}); say with path "
            "(--path) where clients find the endpoint"
        )
    return made
