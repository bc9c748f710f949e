"""`proxy`: in the list of commands; it runs before this is looked at (`ops.cli`)."""

import typer

from mcp_persist_middleware.ops import cli
from mcp_persist_middleware.ops.command import SERVE


def register(app: typer.Typer) -> None:
    """Add the command."""
    as_it_is = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command("proxy", context_settings=as_it_is, rich_help_panel=SERVE)(proxy)


def proxy(context: typer.Context) -> None:
    """Stand in front of a server that nobody can modify (extra proxy)."""
    raise typer.Exit(cli.proxy(context.args))
