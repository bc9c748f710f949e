"""`backup`: a SQLite store as one file, while servers go on."""

from pathlib import Path
from typing import Annotated

import typer

from mcp_persist_middleware.ops import command, progress
from mcp_persist_middleware.ops.backup import backup
from mcp_persist_middleware.ops.output import Output, size
from mcp_persist_middleware.ops.store_options import StoreOptions


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, run, "backup", command.CHANGE)


async def run(
    store: StoreOptions,
    out: Output,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
) -> None:
    """Write a backup of a SQLite store by SQLite's own online backup.

    It is the store as it was when the backup began. PostgreSQL has tools of its own (pg_dump).
    """
    with progress.bar("backup") as report:
        count = await backup(store.settings(), file, report=report)
    if out.as_json:
        out.json({"file": str(file), "bytes": count})
    out.say(f"Wrote {file}, {size(count)}.")
