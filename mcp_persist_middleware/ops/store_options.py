"""The store that a command works on: by its URL, or as an application is set up."""

from dataclasses import dataclass
from typing import Annotated

import typer

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.ops.applications import application, persistence_in
from mcp_persist_middleware.settings import Settings

PANEL = "Store"


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
