"""`workers` and `orphans`: who is on the store, and what those who are gone have left."""

import typer

from mcp_persist_middleware.ops import command, stores
from mcp_persist_middleware.ops.output import Output
from mcp_persist_middleware.ops.records import (
    STREAM_COLUMNS,
    WORKER_COLUMNS,
    stream_row,
    worker_row,
    worker_state,
)
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.stores.sql.inspected import Wanted

_MOST = 1000


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command.add(app, workers, "workers", command.LOOK)
    command.add(app, orphans, "orphans", command.LOOK)


async def workers(store: StoreOptions, out: Output) -> bool:
    """List the workers on the store. Exit code 1 when one is not alive."""
    settings = store.settings()
    async with stores.inspected(settings) as inspection:
        now = await inspection.now()
        rows = [
            worker_row(row, worker_state(row, inspection, settings.lease_seconds, now), now)
            for row in await inspection.workers(now)
        ]
    out.table(WORKER_COLUMNS, rows, "No worker is on the store.")
    return any(row["state"] not in ("live", "draining") for row in rows)


async def orphans(store: StoreOptions, out: Output) -> bool:
    """List open streams whose worker is gone. Exit code 1 when there are any.

    The other workers end them with an error by themselves, within a lease; what stays here needs a
    worker that runs (or `streams end`).
    """
    settings = store.settings()
    async with stores.inspected(settings) as inspection:
        now = await inspection.now()
        gone = [
            row.id
            for row in await inspection.workers(now)
            if row.open_streams
            and worker_state(row, inspection, settings.lease_seconds, now)
            not in ("live", "draining")
        ]
        found = [
            record
            for worker in gone
            for record in await inspection.streams(Wanted(worker=worker, is_open=True), _MOST)
        ]
        kept = await inspection.kept([record.id for record in found])
    rows = [stream_row(record, kept.get(record.id), now) for record in found]
    out.table(STREAM_COLUMNS, rows, "No stream is without its worker.")
    return bool(rows)
