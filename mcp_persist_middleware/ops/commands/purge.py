"""`purge`: what has expired, what ended long ago, or what belongs to somebody, goes now."""

import dataclasses
from collections.abc import Callable, Mapping
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
from mcp_persist_middleware.settings import Settings

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

_Names = tuple[str | None, str | None, str | None]
"""Of a principal, a session and a namespace."""
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
    each of them: streams, running ones too, sessions, tasks, requests between workers, and rows of
    the journal. A worker that holds such a session serves it until it ends. What was removed is
    listed by `deletions`.
    """
    names = (principal, session, namespace)
    if dry_run:
        found = await _counted(store.settings(), names, older_than)
        out.say("Nothing was removed. What would go:")
    else:
        found = await _done(store.settings(), names, older_than)
    out.facts([column for column in _FACTS if column.key in found], found)


async def _done(settings: Settings, names: _Names, older_than: float | None) -> Mapping[str, int]:
    async with stores.opened(settings) as log:
        meant = _whose(log.secret, *names)
        if _is_somebodys(meant, older_than):
            return dataclasses.asdict(await erasure.erase(log, meant))
        return await _removed(log, meant, older_than)


async def _counted(
    settings: Settings, names: _Names, older_than: float | None
) -> Mapping[str, int]:
    async with stores.inspected(settings) as inspection:
        meta = await inspection.meta("secret") or {}
        meant = _whose(meta["secret"], *names)
        if _is_somebodys(meant, older_than):
            of_streams = await inspection.count_of(meant)
            return {**of_streams, **await inspection.count_belonging(meant)}
        now = await inspection.now()
        if older_than is None:
            found = await inspection.count_of(meant, expired=now)
        else:
            found = await inspection.count_of(meant, ended=now - older_than)
        return {name: found[name] for name in ("streams", "events")}


def _whose(
    secret: bytes, principal: str | None, session: str | None, namespace: str | None
) -> Whose:
    if (principal, session, namespace) == (None, None, None):
        return Whose()
    try:
        return erasure.whose(secret, principal, session, namespace)
    except ValueError as error:
        command.cannot_run(str(error))


def _is_somebodys(meant: Whose, older_than: float | None) -> bool:
    """Whether all goes that belongs to whoever is meant."""
    return older_than is None and meant != Whose()


def _meaning(log: EventLog, older_than: float | None) -> IsMeant:
    """Which streams go, of those that belong to whoever is meant."""
    now = log.now()
    if older_than is None:
        return lambda record: record.expires_at is not None and record.expires_at <= now
    return lambda record: record.ended_at is not None and record.ended_at <= now - older_than


async def _removed(log: EventLog, meant: Whose, older_than: float | None) -> Mapping[str, int]:
    notes, streams, events = DeletionNotes(log), 0, 0
    is_meant, ended = _meaning(log, older_than), older_than is not None
    try:
        async for page in removing.pages(log, meant, _STREAMS):
            names = [record.id for record in page if is_meant(record)]
            async for step in removing.steps(log, names, ended=ended):
                notes.add(Reason.AGE, step)
                streams, events = streams + step.streams, events + step.events
    finally:
        await notes.write()
    return {"streams": streams, "events": events}
