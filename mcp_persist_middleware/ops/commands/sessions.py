"""`sessions`: the registry of sessions."""

from typing import Annotated

import typer

from mcp_persist_middleware.ops import command, stores
from mcp_persist_middleware.ops.options import Limit, Namespace
from mcp_persist_middleware.ops.output import Column, Output
from mcp_persist_middleware.ops.records import (
    SESSION_COLUMNS,
    STREAM_COLUMNS,
    NotFoundError,
    session_row,
    stream_row,
)
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.stores.sql.inspected import Wanted

_STREAMS = 100
_FACTS = (
    *SESSION_COLUMNS[:1],
    Column("namespace", "NAMESPACE"),
    Column("path", "PATH"),
    Column("principal", "PRINCIPAL"),
    *SESSION_COLUMNS[1:],
    Column("generation", "GENERATION"),
    Column("level", "LOG LEVEL"),
    Column("subscriptions", "SUBSCRIPTIONS"),
)
_SessionId = Annotated[
    str, typer.Argument(metavar="SESSION", help="Its id, as its client sends it.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    sessions = typer.Typer(no_args_is_help=True, help="List, show and end sessions.")
    command.add(sessions, list_sessions, "list")
    command.add(sessions, show, "show")
    command.add(sessions, end, "end")
    app.add_typer(sessions, name="sessions", rich_help_panel=command.LOOK)


async def list_sessions(
    store: StoreOptions,
    out: Output,
    namespace: Namespace = None,
    worker: Annotated[
        str | None, typer.Option(metavar="ID", help="At home on this worker alone.")
    ] = None,
    limit: Limit = 20,
) -> None:
    """List sessions, those first that were used last."""
    async with stores.inspected(store.settings()) as inspection:
        now = await inspection.now()
        wanted = Wanted(namespace=namespace, worker=worker)
        found = await inspection.sessions(wanted, now, limit)
    rows = [session_row(record, now) for record in found]
    out.table(SESSION_COLUMNS, rows, "There is no such session.")


async def show(
    store: StoreOptions, out: Output, session: _SessionId, namespace: Namespace = None
) -> None:
    """Show a session and its streams."""
    async with stores.inspected(store.settings()) as inspection:
        now = await inspection.now()
        wanted = Wanted(namespace=namespace, session=session)
        found = await inspection.sessions(wanted, now, _STREAMS)
        if not found:
            raise NotFoundError(what="session", name=session, url=inspection.name)
        records = await inspection.streams(wanted, _STREAMS)
        kept = await inspection.kept([record.id for record in records])
    rows = [session_row(record, now) for record in found]
    streams = [stream_row(record, kept.get(record.id), now) for record in records]
    if out.as_json:
        out.json([row | {"streams": streams} for row in rows])
        return
    for row in rows:
        out.facts(_FACTS, row)
    out.say("")
    out.table(STREAM_COLUMNS[:-1], streams, "It has no stream.")


async def end(
    store: StoreOptions, out: Output, session: _SessionId, namespace: Namespace = None
) -> None:
    """End a session, as its client does with DELETE: it never comes back, and its streams go."""
    settings = store.settings()
    async with stores.inspected(settings) as inspection:
        wanted = Wanted(namespace=namespace, session=session)
        found = await inspection.sessions(wanted, await inspection.now(), _STREAMS)
        if not found:
            raise NotFoundError(what="session", name=session, url=inspection.name)
    async with stores.opened(settings) as log:
        for key in [record.key for record in found]:
            # The tombstone outlives whoever still holds it.
            await log.sessions.delete(key, log.now() + settings.session_ttl)
            await log.expire_session(*key)
    out.facts((Column("ended", "Sessions ended:"),), {"ended": len(found)})
