"""The commands, each a file of its own here with `register(app)`: a new file is a new command.

What they share is beside this folder: `command` (options, errors, exit codes), `store_options`
(which store), `output` (tables and JSON).
"""

import importlib
import pkgutil
from typing import Annotated

import typer

from mcp_persist_middleware.ops import version

_HELP = """MCP streams and sessions that survive dropped connections.

Exit codes: 0, 1 when a command has found something, 2 when it cannot run."""


def application() -> typer.Typer:
    """The root command with all others."""
    app = typer.Typer(
        help=_HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
    )
    app.callback()(_root)
    for found in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{found.name}").register(app)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(version.line())
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass
