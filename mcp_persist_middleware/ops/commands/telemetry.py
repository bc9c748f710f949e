"""`telemetry`: what there is to see of the servers, for the tools that show it."""

from collections.abc import Callable

import typer

from mcp_persist_middleware.ops import command
from mcp_persist_middleware.ops.monitoring import alerts, dashboard
from mcp_persist_middleware.ops.monitoring.table import table


def register(app: typer.Typer) -> None:
    """Add the commands."""
    telemetry = typer.Typer(
        no_args_is_help=True, help="Print a dashboard, alert rules, or all instruments."
    )
    _add(telemetry, "dashboard", "Print the dashboard, for Grafana to import.", dashboard.dashboard)
    _add(telemetry, "alerts", "Print the alert rules, for Prometheus.", alerts.rules)
    _add(telemetry, "table", "Print all instruments as a table in Markdown.", table)
    app.add_typer(telemetry, name="telemetry", rich_help_panel=command.LOOK)


def _add(app: typer.Typer, name: str, text: str, made: Callable[[], str]) -> None:
    """They are the same for every store, and have no options."""
    app.command(name, help=text)(lambda: typer.echo(made(), nl=False))
