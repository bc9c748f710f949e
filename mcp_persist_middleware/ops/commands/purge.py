"""`purge`: what has expired, what ended long ago, or what belongs to somebody, goes now."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated

import typer

from mcp_persist_middleware import erasure
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.deletions import Reason
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.maintenance import removing
from mcp_persist_middleware.maintenance.notes import DeletionNotes
from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.ops import command, stores
from mcp_persist_middleware.ops.options import Namespace, Session, duration
from mcp_persist_middleware.ops.output import Column, Output, number
from mcp_persist_middleware.ops.store_options import StoreOptions

_STREAMS = 200
_FACTS = (
    Column("streams", "Streams", number),
    Column("events", "Events", number),
    Column("sessions", "Sessions", number),
    Column("requests", "Kept requests", number),
    Column("relayed", "Relayed requests", number),
    Column("jobs", "Jobs", number),
    Column("journal", "Rows of the journal", number),
)
_OlderThan = Annotated[
    float | None, duration("What ended so long ago, such as 30d, whatever ttl says.")
]
_Principal = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Of this user alone, by name or as `streams show` has it."),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Count it, and remove nothing.")]

IsMeant = Callable[[StreamRecord], bool]


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, purge, "purge", command.CHANGE)


async def purge(
    store: StoreOptions,
    out: Output,
    older_than: _OlderThan = None,
    namespace: Namespace = None,
    principal: _Principal = None,
    session: Session = None,
    dry_run: _DryRun = False,
) -> None:
    """Remove streams that have expired, or ended long ago, or all that is somebody's.

    With --namespace, --principal or --session and without --older-than all goes that belongs to
    each of them: streams, running ones too, sessions, requests between workers, and rows of the
    journal. A worker that
    holds such a session serves it until it ends. What was removed is listed by `deletions`.
    """
    async with stores.opened(store.settings()) as log:
        meant = _whose(log, principal, session, namespace)
        is_somebodys = older_than is None and meant != Whose()
        is_meant = _meaning(log, older_than, always=is_somebodys)
        found: Mapping[str, int]
        if dry_run:
            found = await _counted(log, meant, is_meant)
            if is_somebodys:
                async with stores.inspected(store.settings()) as inspection:
                    of_journal = await inspection.count_journal(meant)
                    sessions = await inspection.count_sessions(meant)
                found = {**found, "sessions": sessions, "journal": of_journal}
        elif is_somebodys:
            found = dataclasses.asdict(await erasure.erase(log, meant))
        else:
            found = await _removed(log, meant, is_meant, ended=older_than is not None)
    if dry_run:
        out.say("Nothing was removed. What would go:")
    out.facts([column for column in _FACTS if column.key in found], found)


def _whose(
    log: EventLog, principal: str | None, session: str | None, namespace: str | None
) -> Whose:
    if (principal, session, namespace) == (None, None, None):
        return Whose()
    try:
        return erasure.whose(log.secret, principal, session, namespace)
    except ValueError as error:
        command.cannot_run(str(error))


def _meaning(log: EventLog, older_than: float | None, *, always: bool) -> IsMeant:
    """Which streams go, of those that belong to whoever is meant."""
    if always:
        return lambda _: True
    now = log.now()
    if older_than is None:
        return lambda record: record.expires_at is not None and record.expires_at <= now
    return lambda record: record.ended_at is not None and record.ended_at <= now - older_than


async def _pages(
    log: EventLog, meant: Whose, is_meant: IsMeant
) -> AsyncIterator[list[StreamRecord]]:
    async for page in removing.pages(log, meant, _STREAMS):
        if some := [record for record in page if is_meant(record)]:
            yield some


async def _counted(log: EventLog, meant: Whose, is_meant: IsMeant) -> Mapping[str, int]:
    streams = events = 0
    async for page in _pages(log, meant, is_meant):
        streams += len(page)
        events += sum([(await log.written(record.id)).events for record in page])
    return {"streams": streams, "events": events}


async def _removed(
    log: EventLog, meant: Whose, is_meant: IsMeant, *, ended: bool
) -> Mapping[str, int]:
    notes, streams, events = DeletionNotes(log), 0, 0
    try:
        async for page in _pages(log, meant, is_meant):
            names = [record.id for record in page]
            async for step in removing.steps(log, names, ended=ended):
                notes.add(Reason.AGE, step)
                streams, events = streams + step.streams, events + step.events
    finally:
        await notes.write()
    return {"streams": streams, "events": events}
