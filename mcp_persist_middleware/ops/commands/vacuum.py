"""`vacuum`: space that nothing is in goes back."""

import asyncio
from collections.abc import Mapping

import typer

from mcp_persist_middleware.ops import command, progress, stores
from mcp_persist_middleware.ops.output import Column, Output, size
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.settings import Settings

_FACTS = (
    Column("before", "Size before", size),
    Column("after", "Size after", size),
    Column("free", "Of that free", size),
)
# Whoever writes goes first.
_PAUSE = 0.01
# What a step gives back (bytes), for the bar.
_STEP = 1 << 20
_BESIDE = ("free", "file-wal", "file-shm")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, vacuum, "vacuum", command.CHANGE)


async def vacuum(store: StoreOptions, out: Output) -> None:
    """Give space back that removed events have left, in small steps beside a running server.

    SQLite: the file becomes smaller. PostgreSQL: what is written next uses the space.
    """
    settings = store.settings()
    before = await _sizes(settings)
    async with stores.opened_sql(settings) as log:
        with progress.bar("vacuum", before.get("free"), hidden=out.as_json) as report:
            done = 0
            while await log.vacuum():
                report(done := done + _STEP)
                await asyncio.sleep(_PAUSE)
    after = await _sizes(settings)
    facts = {"before": _kept(before), "after": _kept(after), "free": after.get("free")}
    out.facts(_FACTS, facts)


async def _sizes(settings: Settings) -> Mapping[str, int]:
    async with stores.inspected(settings) as inspection:
        return await inspection.sizes()


def _kept(sizes: Mapping[str, int]) -> int:
    # The write-ahead log of SQLite comes and goes, and what is free is inside.
    return sum(
        count for part, count in sizes.items() if part not in ("free", "file-wal", "file-shm")
    )
