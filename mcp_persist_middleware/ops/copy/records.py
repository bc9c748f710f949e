"""The records of an `EventLog` as rows, and rows as records."""

import json
from dataclasses import fields, replace

from mcp_persist_middleware.log.jobs import UNBOUNDED, Jobs
from mcp_persist_middleware.log.journal import JournalEntry
from mcp_persist_middleware.log.parts import Sessions
from mcp_persist_middleware.model import (
    Owner,
    SessionRecord,
    SessionStreamState,
    StreamKind,
    StreamRecord,
    StreamState,
)
from mcp_persist_middleware.ops.copy.rows import Row, key_of
from mcp_persist_middleware.stores.sql.jobs import job_of
from mcp_persist_middleware.stores.sql.journal import row_of as row_of_entry
from mcp_persist_middleware.stores.sql.rows import named
from mcp_persist_middleware.stores.sql.schema import tables
from mcp_persist_middleware.stores.sql.sessions import session_of

_ENTRY = tables("").journal.c.keys()


def stream_row(record: StreamRecord) -> Row:
    """A stream; `request` says only whether it has one."""
    owner = record.owner
    return {
        "id": record.id,
        "kind": record.kind.value,
        "namespace": owner.namespace,
        "path": owner.path,
        "session": owner.session,
        "principal": owner.principal,
        "epoch": record.epoch,
        "state": int(record.state),
        "last_sequence": record.last_sequence,
        "worker": record.worker,
        "created_at": record.created_at,
        "ended_at": record.ended_at,
        "expires_at": record.expires_at,
        "request_ids": record.request_ids,
        "trace": record.trace,
        "reader_until": None,
        "request": record.request is not None,
    }


def stream_record(row: Row, epoch: int) -> StreamRecord:
    """A stream as it begins, in some epoch."""
    return StreamRecord(
        id=row["id"],
        kind=StreamKind(row["kind"]),
        owner=Owner(row["namespace"], row["path"], row["session"], row["principal"]),
        epoch=epoch,
        state=StreamState.OPEN,
        last_sequence=0,
        worker=row["worker"],
        created_at=row["created_at"],
        ended_at=None,
        expires_at=None,
        request_ids=row["request_ids"],
        trace=row["trace"],
        request=row["request"],
    )


def session_row(record: SessionRecord, state: SessionStreamState) -> Row:
    """A session, and what the workers share of its own stream."""
    key = record.key
    return {
        "namespace": key.namespace,
        "path": key.path,
        "id": key.id,
        "principal": record.principal,
        "version": record.version,
        "initialize": record.initialize,
        "generation": record.generation,
        "home": record.home,
        "deleted": record.deleted,
        "expires_at": record.expires_at,
        "fingerprint": record.fingerprint,
        "level": record.level,
        "subscriptions": json.dumps(record.subscriptions),
        "segments": "",
        "turn": state.turn,
        "turn_worker": "",
        "read_stream": state.stream,
        "read_sequence": state.sequence,
        "began_at": record.began_at or None,
    }


def entry_row(entry: JournalEntry) -> Row:
    """A row of the journal."""
    return dict(zip(_ENTRY, row_of_entry(entry), strict=True))


def entry(row: Row) -> JournalEntry:
    """The entry in a row of the journal."""
    owner = Owner(*(row[each.name] for each in fields(Owner)))
    of_its_own = {name: value for name, value in row.items() if not hasattr(owner, name)}
    return JournalEntry(**of_its_own, owner=owner)


async def write_job(jobs: Jobs, row: Row, *, replaces: bool) -> None:
    """Let jobs have one as it is in a row, in the place of what there is of it and of its key; or
    only where nothing is."""
    job = job_of(named(row.keys(), row.values()))
    if replaces:
        found = [await jobs.find(job.id)]
        if job.key:
            found.append(await jobs.find_key(job.owner.place, job.key))
        await jobs.remove([each.id for each in found if each is not None])
    await jobs.create(job, UNBOUNDED, UNBOUNDED)


async def write_session(sessions: Sessions, row: Row) -> None:
    """Let a registry have a session as it is in a row; twice is as once."""
    record, key = session_of(named(row.keys(), row.values())), key_of(row)
    if not await sessions.create(replace(record, deleted=False)):
        found = await sessions.find(key)
        while found is not None and found.generation < record.generation:
            await sessions.move(key, found.generation, record.home)
            found = await sessions.find(key)
        await sessions.note(record)
        await sessions.touch([key], record.expires_at)
    if row["read_stream"]:
        await sessions.begin_stream(key, row["read_stream"])
        # As somebody who has lost the turn: how far a client has read is noted all the same.
        await sessions.checkpoint(key, -1, "", row["read_stream"], row["read_sequence"])
    if record.deleted:
        await sessions.delete(key, record.expires_at)
