"""`streams`, and those that are in trouble: `stuck` and `gaps`."""

from typing import Annotated

import typer

from mcp_persist_middleware.log import stopping
from mcp_persist_middleware.model import StreamKind
from mcp_persist_middleware.ops import command, payloads, stores
from mcp_persist_middleware.ops.options import Limit, Namespace, Payloads, Session, Since, duration
from mcp_persist_middleware.ops.output import Column, Output, number
from mcp_persist_middleware.ops.records import (
    EVENT_COLUMNS,
    STREAM_COLUMNS,
    STREAM_FACTS,
    NotFoundError,
    event_row,
    is_open,
    stream_id,
    stream_row,
)
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.protocol.event_id import name_of
from mcp_persist_middleware.stores.sql.inspected import Wanted

_GAPS = (
    Column("stream", "STREAM"),
    Column("state", "STATE"),
    Column("first", "FIRST", number, right=True),
    Column("last", "LAST", number, right=True),
    Column("missing", "MISSING", number, right=True),
)
_ENDED = "Interrupted: an operator has ended this request; what it had done is not known"
_StreamId = Annotated[str, typer.Argument(metavar="STREAM", help="Its id, or an event id of it.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    streams = typer.Typer(no_args_is_help=True, help="List, show and end streams.")
    command.add(streams, list_streams, "list")
    command.add(streams, show, "show")
    command.add(streams, end, "end")
    app.add_typer(streams, name="streams", rich_help_panel=command.LOOK)
    command.add(app, stuck, "stuck", command.LOOK)
    command.add(app, gaps, "gaps", command.LOOK)


async def list_streams(
    store: StoreOptions,
    out: Output,
    open_only: Annotated[bool, typer.Option("--open", help="Those alone that go on.")] = False,
    namespace: Namespace = None,
    session: Session = None,
    worker: Annotated[str | None, typer.Option(metavar="ID", help="Of this worker alone.")] = None,
    since: Since = None,
    limit: Limit = 20,
) -> None:
    """List streams, the newest first."""
    async with stores.inspected(store.settings()) as inspection:
        now = await inspection.now()
        wanted = Wanted(
            namespace=namespace,
            session=session,
            worker=worker,
            is_open=True if open_only else None,
            created_after=None if since is None else now - since,
        )
        found = await inspection.streams(wanted, limit)
        kept = await inspection.kept([record.id for record in found])
    rows = [stream_row(record, kept.get(record.id), now) for record in found]
    out.table(STREAM_COLUMNS, rows, "There is no such stream.")


async def show(
    store: StoreOptions,
    out: Output,
    stream: _StreamId,
    after: Annotated[int, typer.Option(min=0, help="Events after this number.")] = 0,
    limit: Limit = 20,
    shows_payloads: Payloads = False,
) -> None:
    """Show a stream and its events."""
    settings = store.settings()
    async with stores.inspected(settings) as inspection:
        name, found = stream_id(stream), await inspection.stream(stream_id(stream))
        if found is None:
            raise NotFoundError(what="stream", name=stream, url=inspection.name)
        kept = (await inspection.kept([name])).get(name)
        facts = stream_row(found, kept, await inspection.now())
        events = [event_row(head) for head in await inspection.heads(name, after, limit)]
        if shows_payloads:
            wanted = [event["sequence"] for event in events]
            texts = await payloads.of(inspection, settings, name, wanted)
            events = [event | {"data": texts.get(event["sequence"])} for event in events]
    if out.as_json:
        out.json(facts | {"list": events})
        return
    out.facts(STREAM_FACTS, facts)
    out.say("")
    columns = (*EVENT_COLUMNS, Column("data", "DATA")) if shows_payloads else EVENT_COLUMNS
    out.table(columns, events, "There is no event.")


async def end(store: StoreOptions, out: Output, stream: _StreamId) -> bool:
    """End an open stream: what it has not answered is answered with an error.

    The worker that runs it, if there is one, is fenced: what it writes from then on is refused.
    """
    settings = store.settings()
    async with stores.opened(settings) as log:
        record = await log.find(stream_id(stream))
        if record is None:
            raise NotFoundError(what="stream", name=stream, url=log.name)
        was_open = is_open(record)
        if was_open:
            await stopping.stop(log, record, settings.kept_for(record.owner), "", _ENDED)
        after = await log.find(record.id)
    done = was_open and (after is None or not is_open(after))
    title = "Ended:" if done else "It goes on elsewhere:" if was_open else "Had ended before:"
    out.facts((Column("stream", title),), {"stream": name_of(record.id), "ended": done})
    return not done


async def stuck(
    store: StoreOptions,
    out: Output,
    over: Annotated[float, duration("Open for longer than this.")] = 300.0,
    namespace: Namespace = None,
    limit: Limit = 50,
) -> bool:
    """List calls that run for long, the newest first. Exit code 1 when there are any."""
    async with stores.inspected(store.settings()) as inspection:
        now = await inspection.now()
        wanted = Wanted(
            namespace=namespace, kind=StreamKind.POST, is_open=True, created_before=now - over
        )
        found = await inspection.streams(wanted, limit)
        kept = await inspection.kept([record.id for record in found])
    rows = [stream_row(record, kept.get(record.id), now) for record in found]
    out.table(STREAM_COLUMNS, rows, "No call has been running for so long.")
    return bool(rows)


async def gaps(
    store: StoreOptions,
    out: Output,
    namespace: Namespace = None,
    since: Since = None,
    limit: Limit = 1000,
) -> bool:
    """List streams that lack events, of the newest ones. Exit code 1 when there are any.

    A stream over its limits loses its oldest progress first: raise max_stream_events or
    max_stream_bytes. A client that resumes before a gap is told how many are missing.
    """
    async with stores.inspected(store.settings()) as inspection:
        now = await inspection.now()
        wanted = Wanted(namespace=namespace, created_after=None if since is None else now - since)
        found = await inspection.streams(wanted, limit)
        kept = await inspection.kept([record.id for record in found])
    rows = [stream_row(record, kept.get(record.id), now) for record in found]
    lacking = [
        row | {"missing": row["last"] - row["events"]}
        for row in rows
        if row["last"] and row["last"] > row["events"]
    ]
    out.table(_GAPS, lacking, f"None of the newest {len(rows)} streams lacks an event.")
    return bool(lacking)
