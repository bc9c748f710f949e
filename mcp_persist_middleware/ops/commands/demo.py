"""`demo`: what a client sees without and with the middleware."""

import importlib
from typing import Annotated

import typer

from mcp_persist_middleware.ops.command import SERVE, cannot_run

_NEEDS = ("uvicorn", "mcp")
_MOST_CALLS = 1000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", rich_help_panel=SERVE)(demo)


def demo(
    calls: Annotated[int, typer.Option(min=1, max=_MOST_CALLS, help="Calls of each client.")] = 20,
) -> None:
    """Cut every call of a real client, without and with the middleware."""
    if missing := [name for name in _NEEDS if not _importable(name)]:
        cannot_run(
            f"MPM-CLI-03: The demo needs {', '.join(missing)}, which the extra demo brings: "
            'pip install "mcp-persist-middleware[demo]"'
        )
    from mcp_persist_middleware.ops import demo as acts

    raise typer.Exit(acts.run(calls))


def _importable(name: str) -> bool:
    # The server side of the official SDK 2.x is the newest part that the demo uses.
    try:
        importlib.import_module("mcp.server.mcpserver" if name == "mcp" else name)
    except ImportError:
        return False
    return True
