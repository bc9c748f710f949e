"""A copy from its beginning to its end."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from mcp_persist_middleware.log import mirror
from mcp_persist_middleware.ops.copy import ends
from mcp_persist_middleware.ops.copy.beside import rows_of
from mcp_persist_middleware.ops.copy.codecs import Recoder
from mcp_persist_middleware.ops.copy.comparison import Comparison
from mcp_persist_middleware.ops.copy.copying import Copying, Progress, Report
from mcp_persist_middleware.ops.copy.place import Checkpoint
from mcp_persist_middleware.ops.copy.rows import Beside
from mcp_persist_middleware.ops.copy.store import Readable, Writable
from mcp_persist_middleware.ops.copy.verifying import compare_stores, sums
from mcp_persist_middleware.protocol import event_id
from mcp_persist_middleware.settings import Settings

_PAUSE, _SHARE = 0.2, 3.0
# A stream's id begins with the time, as its worker knew it: two of them may differ by this.
_SKEW_SECONDS = 30.0
_TELL = 1000


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy has done."""

    streams: int = 0
    events: int = 0
    bytes: int = 0
    sessions: int = 0
    jobs: int = 0
    journal: int = 0
    """Rows of it."""
    seconds: float = 0.0
    unreadable: int = 0
    """Payloads that could not be read here and went along as they were."""
    left_behind: Sequence[str] = ()
    """What the target keeps none of: `job`, `journal`."""
    is_in_use: bool = False
    """A server is or was on the target: nothing was copied."""
    comparison: Comparison | None = None
    """What `verify` found."""


async def copy(
    source: ends.StoreAddress,
    target: ends.StoreAddress,
    *,
    follow: bool = False,
    verify: bool = False,
    dry_run: bool = False,
    report: Report | None = None,
) -> Copied:
    """Copy one store into another. It may be stopped at any moment, and goes on there when it is
    called again.

    Args:
        source: the store that is copied, with a server on it or not; nothing is written there.
        target: an empty store, or one that `source` was copied into before and that no server has
            used since. No server starts on it before the copy is complete.
        follow: go on until the source has no worker any more, and bring the last changes then: the
            moment to start the server on the target.
        verify: compare the two in the end, event by event.
        dry_run: count what would be copied; nothing is written anywhere.
        report: called with every step forward.

    Raises:
        CopyError: the two stores are not of that kind; the text says what to do.
        ConfigurationError: a setting is wrong.
        StoreError: a store does not do it.
    """
    settings = ends.settings_of(source), ends.settings_of(target)
    tell, began = report or _silent, time.monotonic()
    async with ends.opened(settings[0]) as from_:
        if dry_run:
            return await _counted(from_, tell)
        async with _target(settings[1]) as to:
            if verify and await _is_in_use(to):
                found = await compare_stores(from_, to, *settings, tell)
                return Copied(is_in_use=True, comparison=found)
            place = await Checkpoint.take(from_, to)
            recoder = Recoder(*settings)
            copying = Copying(from_, to, place, recoder, tell)
            await _run(copying, from_, place, settings[0], follow=follow)
            comparison = None
            if verify:
                copying.doing("verify")
                comparison = await compare_stores(from_, to, *settings, tell)
            done, kept = copying.done, to.kept()
            left_behind = [table.value for table in from_.kept() if table not in kept]
    return Copied(
        streams=done.streams,
        events=done.events,
        bytes=done.bytes,
        sessions=done.sessions,
        jobs=done.jobs,
        journal=done.journal,
        seconds=time.monotonic() - began,
        unreadable=recoder.unreadable,
        left_behind=left_behind,
        comparison=comparison,
    )


async def _is_in_use(target: Readable) -> bool:
    """Whether a server is or was on a store: nothing is copied into it any more."""
    return mirror.NAME not in await target.meta() and await target.count() > 0


async def _run(
    copying: Copying, source: Readable, place: Checkpoint, settings: Settings, *, follow: bool
) -> None:
    if not place.passed:
        copying.doing("copy", await source.count())
        await copying.everything_once()
    workers = LivingWorkers(source, settings.lease_seconds)
    if follow:
        copying.doing("follow")
        await _follow(copying, place, workers)
    if settings.redis is not None and not await workers.are_there():
        await ends.settle(settings)
    copying.doing("catch up")
    await copying.catch_up()
    await place.complete()


async def _follow(copying: Copying, place: Checkpoint, workers: "LivingWorkers") -> None:
    """Bring what changes until nobody is there to change anything."""
    since = b""
    while await workers.are_there():
        began = time.monotonic()
        await place.hold()
        since = _a_little_before(await copying.follow(since))
        await asyncio.sleep(max(_PAUSE, (time.monotonic() - began) * _SHARE))


def _a_little_before(stream: bytes) -> bytes:
    """A stream's id, and above all that may still come with an older one."""
    return event_id.earliest(event_id.created_at(stream) - _SKEW_SECONDS)


class LivingWorkers:
    """Whether a store has a worker: one whose heartbeat moves, or was seen for the first time less
    than a lease ago."""

    def __init__(self, store: Readable, lease_seconds: float) -> None:
        self._store = store
        self._lease = lease_seconds
        self._moved: dict[str, tuple[int, float]] = {}
        """The counter of each, and when it was first seen so."""

    async def are_there(self) -> bool:
        """Whether anybody may write to it."""
        now, found = time.monotonic(), await self._store.workers()
        before = self._moved
        self._moved = {
            name: before[name] if before.get(name, (None,))[0] == counter else (counter, now)
            for name, counter in found.items()
        }
        return any(now - since < self._lease for _, since in self._moved.values())


async def compare(
    source: ends.StoreAddress, target: ends.StoreAddress, *, report: Report | None = None
) -> Comparison:
    """Compare two stores, stream by stream and event by event, as they are in the clear. A server
    may be on either.

    Raises:
        CopyError: there is no store.
        StoreError: a store does not answer.
    """
    settings = ends.settings_of(source), ends.settings_of(target)
    async with ends.opened(settings[0]) as from_, ends.opened(settings[1]) as to:
        return await compare_stores(from_, to, *settings, report or _silent)


async def _counted(source: Readable, report: Report) -> Copied:
    """What there is."""
    done = Copied()
    async for row, sum_ in sums(source, None):
        del row
        done = replace(
            done,
            streams=done.streams + 1,
            events=done.events + sum_.events,
            bytes=done.bytes + sum_.bytes,
        )
        if done.streams % _TELL == 0:
            report(Progress("count", done.streams, done.events, done.bytes))
    sessions, jobs, journal = [
        sum([len(rows) async for rows in rows_of(source, table)])
        for table in (Beside.SESSION, Beside.JOB, Beside.JOURNAL)
    ]
    return replace(done, sessions=sessions, jobs=jobs, journal=journal)


def _silent(_: Progress) -> None:
    """Nobody wants to know."""


@contextlib.asynccontextmanager
async def _target(settings: Settings) -> AsyncIterator[Writable]:
    """A target, with its tables; one that has been begun is not opened as a server does it."""
    async with ends.maybe_opened(settings) as there:
        is_begun = there is not None and mirror.NAME in await there.meta()
    if not is_begun:
        await ends.make_tables(settings)
    async with ends.opened(settings) as store:
        yield store
