"""`deletions`: what was removed of late, and why."""

import dataclasses

import typer

from mcp_persist_middleware.ops import command, stores
from mcp_persist_middleware.ops.options import Limit
from mcp_persist_middleware.ops.output import Column, Output, moment, number
from mcp_persist_middleware.ops.store_options import StoreOptions

_COLUMNS = (
    Column("at", "WHEN"),
    Column("reason", "REASON"),
    Column("namespace", "NAMESPACE", lambda name: name or "(all)"),
    Column("kind", "WHAT"),
    Column("count", "COUNT", number, right=True),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, deletions, "deletions", command.LOOK)


async def deletions(store: StoreOptions, out: Output, limit: Limit = 20) -> None:
    """List what retention, a bound or somebody has removed of late, the newest first.

    How much of what, when, and why (age, count, bytes, store, forgotten); nothing of its content.
    """
    async with stores.inspected(store.settings()) as inspection:
        found = await inspection.deletions(limit)
    rows = [dataclasses.asdict(each) | {"at": moment(each.at)} for each in found]
    out.table(_COLUMNS, rows, "Nothing was removed of late.")
