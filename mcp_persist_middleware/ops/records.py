"""Streams, sessions and workers as rows that a command prints."""

from typing import Any

from mcp_persist_middleware.errors import PersistError
from mcp_persist_middleware.model import (
    EventKind,
    SessionRecord,
    StreamKind,
    StreamRecord,
    StreamState,
    WorkerState,
)
from mcp_persist_middleware.ops.output import Column, ago, moment, number, size
from mcp_persist_middleware.protocol.event_id import name_of, stream_of
from mcp_persist_middleware.stores.sql.inspected import EventHead, Kept, WorkerRow
from mcp_persist_middleware.stores.sql.inspection import Inspection

_SHORT = 12
_KINDS = {StreamKind.POST: "POST", StreamKind.GET: "GET"}


class NotFoundError(PersistError):
    """There is no {what} {name} in the store {url}."""

    code = "MPM-CLI-01"


class NoIdError(PersistError):
    """{name!r} is neither the id of a stream (22 characters) nor an event id."""

    code = "MPM-CLI-02"


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


STREAM_COLUMNS = (
    Column("stream", "STREAM"),
    Column("kind", "KIND"),
    Column("state", "STATE"),
    Column("age", "BEGUN", lambda seconds: f"{ago(seconds)} ago", right=True),
    Column("events", "EVENTS", number, right=True),
    Column("session", "SESSION", _short),
)
STREAM_FACTS = (
    *STREAM_COLUMNS[:3],
    Column("namespace", "NAMESPACE"),
    Column("path", "PATH"),
    Column("session", "SESSION"),
    Column("principal", "PRINCIPAL"),
    Column("request_ids", "REQUEST IDS"),
    Column("trace", "TRACE"),
    Column("worker", "WORKER"),
    Column("epoch", "EPOCH"),
    Column("created_at", "BEGUN"),
    Column("ended_at", "ENDED"),
    Column("expires_at", "EXPIRES"),
    Column("first", "FIRST EVENT"),
    Column("last", "LAST EVENT"),
    Column("events", "EVENTS", number),
    Column("bytes", "SIZE", size),
)
SESSION_COLUMNS = (
    Column("session", "SESSION"),
    Column("version", "REVISION"),
    Column("home", "HOME"),
    Column("left", "EXPIRES", lambda seconds: f"in {ago(seconds)}", right=True),
)
WORKER_COLUMNS = (
    Column("worker", "WORKER"),
    Column("state", "STATE"),
    Column("silent", "LAST BEAT", lambda seconds: f"{ago(seconds)} ago", right=True),
    Column("running", "RUNNING", number, right=True),
    Column("readers", "READ ELSEWHERE", number, right=True),
    Column("sessions", "SESSIONS", number, right=True),
)
EVENT_COLUMNS = (
    Column("sequence", "EVENT", right=True),
    Column("epoch", "EPOCH", right=True),
    Column("kind", "KIND"),
    Column("bytes", "STORED", size, right=True),
)


def stream_row(record: StreamRecord, kept: Kept | None, now: float) -> dict[str, Any]:
    """A stream and what there is of it."""
    first, last, events, stored = kept or (None, record.last_sequence or None, 0, 0)
    return {
        "stream": name_of(record.id),
        "kind": _KINDS[record.kind],
        "state": record.state.name.lower(),
        "namespace": record.owner.namespace,
        "path": record.owner.path,
        "session": record.owner.session or None,
        "principal": record.owner.principal or None,
        "request_ids": record.request_ids,
        "trace": record.trace or None,
        "worker": record.worker,
        "epoch": record.epoch,
        "created_at": moment(record.created_at),
        "ended_at": moment(record.ended_at),
        "expires_at": moment(record.expires_at),
        "age": round(now - record.created_at, 3),
        "first": first,
        "last": last,
        "events": events,
        "bytes": stored,
    }


def session_row(record: SessionRecord, now: float) -> dict[str, Any]:
    """A session, without what its client said."""
    return {
        "session": record.key.id,
        "namespace": record.key.namespace,
        "path": record.key.path,
        "principal": record.principal or None,
        "version": record.version,
        "generation": record.generation,
        "home": record.home,
        "level": record.level or None,
        "subscriptions": len(record.subscriptions),
        "expires_at": moment(record.expires_at),
        "left": round(record.expires_at - now, 3),
    }


def worker_row(row: WorkerRow, state: str, now: float) -> dict[str, Any]:
    """A worker."""
    return {
        "worker": row.id,
        "state": state,
        "silent": round(now - row.seen_at, 3) if row.seen_at else None,
        "running": row.open_streams,
        "readers": row.readers,
        "sessions": row.sessions,
        "schema": row.schema,
    }


def worker_state(row: WorkerRow, inspection: Inspection, lease: float, now: float) -> str:
    """What is to be thought of a worker: `live`, `draining`, `silent` (its lease is over by the
    clocks alone), `dead`, or `gone` (it has no row, or its process has ended)."""
    if not row.seen_at or inspection.is_gone(row.id):
        return "gone"
    if row.state == WorkerState.DEAD:
        return "dead"
    if now - row.seen_at > lease:
        return "silent"
    return "draining" if row.state == WorkerState.DRAINING else "live"


def stream_id(name: str) -> bytes:
    """The id in a name, or in an event id.

    Raises:
        NoIdError: it is none.
    """
    if (found := stream_of(name)) is None:
        raise NoIdError(name=name)
    return found


def event_row(head: EventHead) -> dict[str, Any]:
    """An event, without what it says."""
    try:
        kind = EventKind(head.kind).name.lower()
    except ValueError:
        kind = str(head.kind)
    return {"sequence": head.sequence, "epoch": head.epoch, "kind": kind, "bytes": head.size}


def is_open(record: StreamRecord) -> bool:
    """Whether it takes events."""
    return record.state is StreamState.OPEN
