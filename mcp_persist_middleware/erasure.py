"""Erases what belongs to one: a principal, a session, a namespace."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.deletions import Deletion, Reason
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.maintenance import removing
from mcp_persist_middleware.sessions.registry import Registry
from mcp_persist_middleware.streams import identity
from mcp_persist_middleware.streams.context import Context

# Streams of which a part is removed in one step, and events that go in one.
_STREAMS, _EVENTS = 50, 1000
# A wake-up may be lost.
_LOOK = 0.25


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How much was erased."""

    streams: int = 0
    events: int = 0
    sessions: int = 0
    requests: int = 0
    """Requests that were kept to be run again."""
    relayed: int = 0
    """Requests on their way between workers, and their replies."""
    jobs: int = 0
    """Calls that could be asked for by an id or a key."""
    journal: int = 0
    """Rows of the journal."""


def whose(
    secret: bytes,
    principal: str | Sequence[str | None] | None,
    session: str | None,
    namespace: str | None,
) -> Whose:
    """What is to be erased.

    Raises:
        ValueError: nothing is given, or nothing that anything could belong to.
    """
    given = {"principal": principal, "session": session, "namespace": namespace}
    named = {name: value for name, value in given.items() if value is not None}
    if not named:
        raise ValueError("name whose data is to be erased: principal=, session= or namespace=")
    for name, value in named.items():
        if not value:
            raise ValueError(f"{name}={value!r} is nobody's: nothing belongs to it")
    names = None if principal is None else identity.stored(secret, principal)
    return Whose(names, session, namespace)


async def forget(context: Context, registry: Registry, meant: Whose) -> Forgotten:
    """Erase it from the store, and from what this process is about to write there.

    Raises:
        StoreError: the store does not do it, or cannot; whoever calls again goes on with it.
    """
    log = context.log
    # A store that cannot, or cannot now, says so before anything is erased.
    await log.streams_of(meant, b"", 1)
    await log.remove((), 1)
    await _settle(context, meant)
    await context.reports.forget(meant)
    registry.forget(meant)
    return await erase(log, meant)


async def erase(log: EventLog, meant: Whose) -> Forgotten:
    """The part of it that is the store's.

    Raises:
        StoreError: the store does not do it, or cannot; whoever calls again goes on with it.
    """
    sessions = set(await log.sessions.forget(meant))
    relayed = await log.inbox.forget(
        lambda key: key in sessions or (meant.principals is None and meant.has_session(key, "")),
        await log.workers(),
    )
    jobs = await log.jobs.forget(meant) if log.jobs is not None else 0
    found = await _remove(log, meant)
    journal = 0 if log.journal is None else await log.journal.forget(meant)
    found = dataclasses.replace(
        found, sessions=len(sessions), relayed=relayed, jobs=jobs, journal=journal
    )
    now, namespace = log.now(), meant.namespace or ""
    counts = [(kind, count) for kind, count in dataclasses.asdict(found).items() if count]
    if counts:
        await log.note_deletions(
            [Deletion(now, Reason.FORGOTTEN, namespace, *each) for each in counts]
        )
    return found


async def _settle(context: Context, meant: Whose) -> None:
    """What waits here for the store is committed before it is erased with the rest: whatever comes
    after that meets the fence that a removed stream leaves, here as on every other worker."""
    waiting: list[tuple[LiveStream, int]] = []
    for stream in context.writer.live.values():
        if meant.has(stream.record.owner):
            stream.record = dataclasses.replace(stream.record, expires_at=0.0)
            context.writer.hurry(stream)
            waiting.append((stream, stream.last))
    until = time.monotonic() + context.settings.store_timeout
    for stream, last in waiting:
        while not (stream.degraded or (stream.created and stream.committed >= last)):
            if time.monotonic() > until:
                raise StoreError(url=context.log.name, reason="it does not take what waits for it")
            await stream.signal.wait(_LOOK)
        # Where it went on without the store, its answer begins nothing there.
        stream.created = True


async def _remove(log: EventLog, meant: Whose) -> Forgotten:
    gone = Forgotten()
    async for page in removing.pages(log, meant, _STREAMS):
        kept = sum(record.request is not None for record in page)
        gone = dataclasses.replace(gone, requests=gone.requests + kept)
        gone = await _removed(log, [record.id for record in page], gone)
    # What a newer version wrote, or is damaged, is somebody's all the same.
    after = b""
    while names := await log.ids_of(meant, after, _STREAMS):
        gone, after = await _removed(log, names, gone), names[-1]
    return gone


async def _removed(log: EventLog, streams: Sequence[bytes], gone: Forgotten) -> Forgotten:
    more = True
    while more:
        step = await log.remove(streams, _EVENTS)
        streams_, events = gone.streams + step.streams, gone.events + step.events
        gone, more = dataclasses.replace(gone, streams=streams_, events=events), step.more
    return gone
