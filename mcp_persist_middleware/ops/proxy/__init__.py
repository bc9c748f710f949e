"""A reverse proxy for MCP servers that nobody can modify: the same middleware, in front of one
small application that passes everything on (extra `proxy`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import health
from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.log.base import MakeLog
from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.model import surely
from mcp_persist_middleware.ops.proxy import config
from mcp_persist_middleware.ops.proxy.cors import with_cors
from mcp_persist_middleware.ops.proxy.pool import UpstreamOptions
from mcp_persist_middleware.ops.proxy.replicas import Replicas
from mcp_persist_middleware.ops.proxy.stdio import StdioOptions, StdioUpstream
from mcp_persist_middleware.ops.proxy.stdio.upstream import OwnerOf
from mcp_persist_middleware.ops.proxy.upstream import Upstream
from mcp_persist_middleware.persistence import Persistence, access_to
from mcp_persist_middleware.settings import SettingsArguments, is_given
from mcp_persist_middleware.streams import identity

__all__ = [
    "Replicas",
    "StdioOptions",
    "StdioUpstream",
    "Upstream",
    "UpstreamOptions",
    "config_app",
    "proxy_app",
    "with_cors",
]


def proxy_app(
    upstream: str | Sequence[str] | None = None,
    url: str | None = None,
    *,
    command: Sequence[str] | None = None,
    options: UpstreamOptions | None = None,
    stdio: StdioOptions | None = None,
    log: MakeLog | None = None,
    persistence: Persistence | None = None,
    **settings: Unpack[SettingsArguments],
) -> PersistMiddleware:
    """An ASGI application that stands for an MCP server at another address, or for one that
    speaks on its pipes.

    Args:
        upstream: the server's MCP endpoint, see `Upstream`; or those of several servers that do the
            same, see `Replicas`.
        url: the store.
        command: instead of `upstream`, a program and its arguments, see `StdioUpstream`.
        options: how the upstream is spoken to.
        stdio: how the command is run.
        log, persistence, settings: as `PersistMiddleware` takes them; `health_path` is `/healthz`
            unless it, or a `persistence`, is given.

    Raises:
        ConfigurationError: `upstream` is no URL of a server, the command cannot be run; not one
            of the two is given.
    """
    if (upstream is None) == (command is None):
        raise ConfigurationError(reason="expected an upstream or a command, and not both")
    server: Upstream | Replicas | StdioUpstream
    if upstream is None:
        server = StdioUpstream(command or (), stdio)
    else:
        made = servers([upstream] if isinstance(upstream, str) else upstream, options)
        server = made[0] if len(made) == 1 else Replicas(made)
    app = in_front_of(server, url, log=log, persistence=persistence, **settings)
    if isinstance(server, StdioUpstream):
        server.owner = owner_by(app.persistence)
        children = server.children
        app.persistence.reports["children"] = lambda: len(children)
    app.persistence.reports["circuit"] = server.circuit
    return app


def config_app(
    file: str | Path,
    url: str | None = None,
    *,
    options: UpstreamOptions | None = None,
    stdio: StdioOptions | None = None,
    log: MakeLog | None = None,
    persistence: Persistence | None = None,
    **settings: Unpack[SettingsArguments],
) -> PersistMiddleware:
    """An ASGI application for all servers of an `mcpServers` file: each at `/servers/NAME/mcp`, on
    one store; `/` lists them.

    Args:
        file: as Claude, Cursor and VS Code have it: `command`, `args`, `env`, `cwd`; or `url` and
            `headers`. `${NAME}` and `${NAME:-text}` stand for variables of the environment.
        others: as `proxy_app` takes them.

    Raises:
        ConfigurationError: the file, or something in it, is wrong.
    """
    found = config.read(Path(file), options, stdio)
    app = in_front_of(found, url, log=log, persistence=persistence, **settings)
    for server in found.all.values():
        if isinstance(server.app, StdioUpstream):
            server.app.owner = owner_by(app.persistence)
    app.persistence.reports["servers"] = found.report
    return app


def in_front_of(
    server: ASGIApp,
    url: str | None,
    *,
    log: MakeLog | None = None,
    persistence: Persistence | None = None,
    **settings: Unpack[SettingsArguments],
) -> PersistMiddleware:
    """The middleware as a proxy has it: with the health endpoints."""
    if persistence is None and not is_given("health_path", settings):
        settings["health_path"] = health.PATH
    return PersistMiddleware(server, url, log=log, persistence=persistence, **settings)


def owner_by(persistence: Persistence) -> OwnerOf:
    """Whose requests have a process in common: the principal's, as streams belong to it, where
    that is sure; without a store nobody's."""

    async def owner(scope: Scope) -> str:
        try:
            return surely(identity.principal(await access_to(persistence).context(), scope))
        except Exception:
            # Whatever a store of somebody else's raises.
            return ""

    return owner


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
