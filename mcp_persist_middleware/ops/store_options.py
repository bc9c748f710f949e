"""The store that a command works on: by its URL, or as an application is set up."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.persistence import Persistence
from mcp_persist_middleware.settings import Settings

PANEL = "Store"
_DEPTH = 32
# Where frameworks keep what a middleware wraps, and what they have not built yet.
_INNER = ("app", "middleware_stack", "_app", "asgi_app", "application")


@dataclass(frozen=True)
class StoreOptions:
    """What the command line says of the store; every command that looks at one takes these."""

    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The store (MCP_PERSIST_URL).", rich_help_panel=PANEL),
    ] = None
    redis: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A Redis in front (MCP_PERSIST_REDIS).", rich_help_panel=PANEL
        ),
    ] = None
    table_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Of the tables' names (default mcp_).", rich_help_panel=PANEL
        ),
    ] = None
    app: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:APP",
            help="An application: the settings of the middleware in it.",
            rich_help_panel=PANEL,
        ),
    ] = None

    def settings(self) -> Settings:
        """The checked settings: of the application, or of the environment and the options.

        Raises:
            ConfigurationError: there is no store, or a setting is wrong.
        """
        named = {
            name: value
            for name in ("url", "redis", "table_prefix")
            if (value := getattr(self, name)) is not None
        }
        if self.app is None:
            return Settings.load(named)
        if named:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in named)
            raise ConfigurationError(
                reason=f"--app and {options} are given together; the application names its store"
            )
        return persistence_in(application(self.app)).settings


def application(name: str) -> Any:
    """The application that `module:app` names, or a factory of it made.

    Raises:
        ConfigurationError: there is none.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ConfigurationError(reason=f"--app is {name!r}: expected module:app, as main:app")
    if (here := str(Path.cwd())) not in sys.path:
        # As servers do that are told an application by its name.
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.removesuffix("()").split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ConfigurationError(reason=f"--app {name}: {type(error).__name__}: {error}") from error
    return found() if attribute.endswith("()") else found


def persistence_in(app: Any) -> Persistence:
    """The persistence of the first `PersistMiddleware` in an application, from outside.

    Raises:
        ConfigurationError: there is none.
    """
    inner = app
    for _ in range(_DEPTH):
        if isinstance(inner, PersistMiddleware):
            return inner.persistence
        for added in getattr(inner, "user_middleware", ()):
            if added.cls is PersistMiddleware:
                return PersistMiddleware(inner, *added.args, **added.kwargs).persistence
        found = (getattr(inner, name, None) for name in _INNER)
        inner = next((each for each in found if callable(each)), None)
        if inner is None:
            break
    raise ConfigurationError(
        reason=f"there is no PersistMiddleware in the application ({type(app).__name__}); "
        "name the store with --url"
    )
