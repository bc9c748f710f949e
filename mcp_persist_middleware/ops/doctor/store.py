"""Checks of the tables: who is on them, who may do what, what retention has left."""

import secrets
import shutil
import stat
from collections.abc import AsyncIterator

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.ops import stores
from mcp_persist_middleware.ops.doctor import Finding, Level, Patient
from mcp_persist_middleware.ops.output import ago, number, size
from mcp_persist_middleware.ops.records import worker_state
from mcp_persist_middleware.stores.sql import migrations
from mcp_persist_middleware.stores.sqlite.inspection import SqliteInspection

_ROOM, _LEAST = 64 * 1024 * 1024, 1024 * 1024
_SKEW, _NOISE = 5.0, 0.1
# So many rounds of retention late is behind; a round or two is a busy moment.
_LATE_ROUNDS, _LATE_SECONDS = 5, 120.0


async def schema(patient: Patient) -> AsyncIterator[Finding]:
    """Whether this version can work with the tables."""
    found = await patient.store.schema()
    try:
        stores.check(patient.store.name, found)
    except StoreError as error:
        yield Finding("schema", Level.FAILURE, str(error.fields.get("reason", error)))
        return
    newer = f", newer than {migrations.NEWEST}, beside which this version goes on"
    said = f"{found.number}" + (newer if found.number > migrations.NEWEST else "")
    yield Finding("schema", Level.OK, said)


async def clock(patient: Patient) -> AsyncIterator[Finding]:
    """Whether this host's clock is the store's."""
    offset = await patient.store.clock_offset()
    if offset is None:
        yield Finding("clock", Level.OK, "the store goes by this host's")
        return
    said = (
        f"the store's is {abs(offset):.3f} s {'ahead of' if offset > 0 else 'behind'} this host's"
    )
    if abs(offset) < _SKEW:
        same = "the store's and this host's agree"
        yield Finding("clock", Level.OK, said if abs(offset) > _NOISE else same)
    else:
        fix = "Let both hosts keep time (NTP): what a person reads is wrong by that"
        yield Finding("clock", Level.WARNING, said, fix)


async def rights(patient: Patient) -> AsyncIterator[Finding]:
    """Whether this user may do what a server does, and nobody else what he should not."""
    lacking = await patient.store.lacking_rights()
    if lacking:
        said = f"this user may not {' nor '.join(lacking)}"
        fix = "Run a server as a user who may, or grant it (this command needs to read alone)"
        yield Finding("permissions", Level.FAILURE, said, fix)
        return
    if isinstance(patient.store, SqliteInspection):
        mode = stat.S_IMODE(patient.store.path.stat().st_mode)
        if mode & 0o077:
            said, fix = f"others may use the file ({mode:04o})", f"chmod 600 {patient.store.path}*"
            yield Finding("permissions", Level.WARNING, said, fix)
            return
    yield Finding("permissions", Level.OK, "this user may do all that a server does")


async def disk(patient: Patient) -> AsyncIterator[Finding]:
    """Whether there is room for what comes."""
    if not isinstance(patient.store, SqliteInspection):
        yield Finding("disk", Level.SKIPPED, "it is the database server's own")
        return
    free = shutil.disk_usage(patient.store.path.parent).free
    said = f"{size(free)} free beside the file"
    if free >= _ROOM:
        yield Finding("disk", Level.OK, said)
    else:
        fix = "Make room on the disk: a store that cannot write keeps nothing, nor removes anything"
        yield Finding("disk", Level.FAILURE if free < _LEAST else Level.WARNING, said, fix)


async def workers(patient: Patient) -> AsyncIterator[Finding]:
    """Who is on the store, and what those who are gone have left."""
    now, lease = await patient.store.now(), patient.settings.lease_seconds
    rows = await patient.store.workers(now)
    states = {row.id: worker_state(row, patient.store, lease, now) for row in rows}
    live = [name for name, state in states.items() if state in ("live", "draining")]
    left = sum(row.open_streams for row in rows if row.id not in live)
    others = ", ".join(f"{name} is {state}" for name, state in states.items() if name not in live)
    if left:
        fix = "Start a server on the store: it ends what they have left (see `orphans`)"
        said = f"{len(live)} alive; {others}; streams without their worker: {number(left)}"
        yield Finding("workers", Level.WARNING, said, fix)
    elif others:
        yield Finding("workers", Level.WARNING, f"{len(live)} alive; {others}", "See `workers`")
    else:
        yield Finding("workers", Level.OK, f"{len(live)} alive")


async def retention(patient: Patient) -> AsyncIterator[Finding]:
    """Whether what has expired goes in time."""
    now = await patient.store.now()
    overdue = await patient.store.overdue(now)
    late = now - overdue.oldest if overdue.oldest is not None else 0.0
    if late <= max(_LATE_ROUNDS * patient.settings.purge_interval, _LATE_SECONDS):
        yield Finding("retention", Level.OK, f"streams that wait for it: {number(overdue.streams)}")
        return
    said = f"{number(overdue.streams)} streams have expired, the first {ago(late)} ago"
    fix = "Start a server, which purges; or run `purge`. If servers run: shorten purge_interval"
    yield Finding("retention", Level.WARNING, said, fix)


async def wakeups(patient: Patient) -> AsyncIterator[Finding]:
    """Whether a reader on another connection hears of a commit."""
    heard = await patient.store.hears_itself("mcp_doctor_" + secrets.token_hex(8))
    match heard:
        case None:
            said = "readers look at the file; nothing has to be heard"
            yield Finding("wake-ups", Level.OK, said)
        case True:
            yield Finding("wake-ups", Level.OK, "heard")
        case False:
            fix = "Connect to PostgreSQL itself or to a pool in session mode; readers are late now"
            yield Finding("wake-ups", Level.FAILURE, "a NOTIFY was not heard", fix)


CHECKS = {
    "schema": schema,
    "clock": clock,
    "permissions": rights,
    "disk": disk,
    "workers": workers,
    "retention": retention,
    "wake-ups": wakeups,
}
