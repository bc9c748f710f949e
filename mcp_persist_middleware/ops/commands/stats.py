"""`stats`: how much is in the store."""

import typer

from mcp_persist_middleware.ops import command, stores
from mcp_persist_middleware.ops.output import Column, Output, number, size
from mcp_persist_middleware.ops.records import worker_state
from mcp_persist_middleware.ops.store_options import StoreOptions

_FACTS = (
    Column("store", "Store"),
    Column("engine", "Engine"),
    Column("schema", "Schema"),
    Column("bytes", "Size", lambda parts: ", ".join(f"{k} {size(v)}" for k, v in parts.items())),
    Column("workers", "Workers"),
    Column("relayed", "Relayed requests that wait"),
)
_NAMESPACES = (
    Column("namespace", "NAMESPACE"),
    Column("streams", "STREAMS", number, right=True),
    Column("open", "OPEN", number, right=True),
    Column("failed", "FAILED", number, right=True),
    Column("events", "EVENTS", number, right=True),
    Column("sessions", "SESSIONS", number, right=True),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, stats, "stats", command.LOOK)


async def stats(store: StoreOptions, out: Output) -> None:
    """Show how much is in the store, by namespace.

    EVENTS are those that ended streams have had, what retention removed of them included.
    """
    settings = store.settings()
    async with stores.inspected(settings) as inspection:
        now = await inspection.now()
        states = [
            worker_state(row, inspection, settings.lease_seconds, now)
            for row in await inspection.workers(now)
        ]
        facts = {
            "store": inspection.name,
            "engine": await inspection.engine_version(),
            "schema": (await inspection.schema()).number,
            "bytes": await inspection.sizes(),
            "workers": sum(state in ("live", "draining") for state in states),
            "relayed": await inspection.waiting_requests(),
        }
        counts = [count._asdict() for count in await inspection.counts()]
    if out.as_json:
        out.json(facts | {"namespaces": counts})
        return
    out.facts(_FACTS, facts)
    out.say("")
    out.table(_NAMESPACES, counts, "There is no stream and no session.")
