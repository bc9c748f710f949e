"""The tables, and the version they carry."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
)
from sqlalchemy import event as events

from mcp_persist_middleware.stores.sql.text import Text

VERSION = 1

# PostgreSQL. Retention removes as much as is written, so vacuum has to find as much space again, in
# a fiftieth of a long history at a time. At the server's own pace (a cost limit of 200) it finds
# 36,000 rows in a second, and 94 % of that time it waits; workers write more than that, and the
# table grows without end. TOAST follows its table. `tests.peers.retention` measures it.
_VACUUMED = {
    "autovacuum_vacuum_cost_limit": 1000,
    "autovacuum_vacuum_scale_factor": 0.02,
    "autovacuum_vacuum_insert_scale_factor": 0.1,
    "autovacuum_analyze_scale_factor": 0.02,
}
# Small tables whose rows change often keep room for that in their pages.
_CHURNED = {
    "fillfactor": 60,
    "autovacuum_vacuum_scale_factor": 0.05,
    "autovacuum_vacuum_threshold": 500,
}


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one store."""

    metadata: MetaData
    meta: Table
    stream: Table
    event: Table
    session: Table
    worker: Table
    inbox: Table


def tables(prefix: str) -> Tables:
    """The schema under a table prefix."""
    metadata = MetaData()
    meta = Table(
        prefix + "meta",
        metadata,
        Column("name", String(64), primary_key=True),
        Column("value", LargeBinary, nullable=False),
    )
    stream = Table(
        prefix + "stream",
        metadata,
        Column("id", LargeBinary(16), primary_key=True),
        Column("kind", String(1), nullable=False),
        Column("namespace", Text, nullable=False),
        Column("path", Text, nullable=False),
        Column("session", Text, nullable=False),
        Column("principal", Text, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("last_sequence", BigInteger, nullable=False),
        Column("worker", Text, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("ended_at", Float),
        Column("expires_at", Float),
        Column("request_ids", Text, nullable=False),
        Column("trace", Text, nullable=False),
        # Until when a reader on another worker is known to be there.
        Column("reader_until", Float),
        # What may be run again; gone with the end of the stream.
        Column("request", LargeBinary),
        sqlite_with_rowid=False,
    )
    # Only ended streams have an expiry, so the index holds nothing of the living.
    _partial(prefix + "stream_expiry", stream.c.expires_at, stream.c.expires_at.is_not(None))
    _partial(prefix + "stream_session", stream.c.session, stream.c.session != "")
    # The living alone: what a worker leaves behind is found however long the history is.
    _partial(prefix + "stream_open", stream.c.worker, stream.c.ended_at.is_(None))
    event = Table(
        prefix + "event",
        metadata,
        # Clustered by stream: a replay reads neighbouring pages, however old the file.
        Column("stream", LargeBinary(16), primary_key=True),
        Column("sequence", BigInteger, primary_key=True),
        Column("epoch", Integer, nullable=False),
        Column("kind", SmallInteger, nullable=False),
        Column("codec", SmallInteger, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    session = Table(
        prefix + "session",
        metadata,
        Column("namespace", Text, primary_key=True),
        Column("path", Text, primary_key=True),
        Column("id", Text, primary_key=True),
        Column("principal", Text, nullable=False),
        Column("version", Text, nullable=False),
        Column("initialize", LargeBinary, nullable=False),
        Column("generation", Integer, nullable=False),
        Column("home", Text, nullable=False),
        Column("deleted", Boolean, nullable=False),
        Column("expires_at", Float, nullable=False),
        Column("fingerprint", Text, nullable=False),
        Column("level", Text, nullable=False),
        Column("subscriptions", Text, nullable=False),
        # Empty: version 1 has it.
        Column("segments", Text, nullable=False),
        # The session's own stream: which connection receives and where that is, and how far a
        # client has read in which stream.
        Column("turn", BigInteger, nullable=False),
        Column("turn_worker", Text, nullable=False),
        Column("read_stream", LargeBinary, nullable=False),
        Column("read_sequence", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    Index(prefix + "session_expiry", session.c.expires_at)
    worker = Table(
        prefix + "worker",
        metadata,
        Column("id", String(64), primary_key=True),
        Column("counter", BigInteger, nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("seen_at", Float, nullable=False),
        # For what only this worker may read, such as the credentials of a relayed request.
        Column("public_key", LargeBinary),
        sqlite_with_rowid=False,
    )
    inbox = Table(
        prefix + "inbox",
        metadata,
        Column("id", LargeBinary(16), primary_key=True),
        Column("namespace", Text, nullable=False),
        Column("path", Text, nullable=False),
        Column("session", Text, nullable=False),
        Column("worker", String(64), nullable=False),
        Column("generation", Integer, nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("deadline", Float, nullable=False),
        Column("sealed", Boolean, nullable=False),
        Column("content", LargeBinary, nullable=False),
        Column("reply", LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    Index(prefix + "inbox_worker", inbox.c.worker, inbox.c.state, inbox.c.id)
    Index(prefix + "inbox_session", inbox.c.session)
    Index(prefix + "inbox_deadline", inbox.c.deadline)
    _stored(stream, {"fillfactor": 85, **_VACUUMED})
    _stored(event, _VACUUMED)
    for table in (session, worker, inbox):
        _stored(table, _CHURNED)
    return Tables(metadata, meta, stream, event, session, worker, inbox)


def quoted(table: Table) -> str:
    """A table's name as it stands in a statement that is written by hand: PostgreSQL would look
    for another one where it has capital relayed requests."""
    return f'"{table.name}"'


def _stored(table: Table, options: Mapping[str, float]) -> None:
    """How PostgreSQL keeps a table. SQLAlchemy knows a word for it only from 2.1 on."""
    said = ", ".join(f"{name} = {value}" for name, value in options.items())
    alter = DDL(f"ALTER TABLE %(fullname)s SET ({said})")  # type: ignore[no-untyped-call]
    events.listen(table, "after_create", alter.execute_if(dialect="postgresql"))


def _partial(name: str, column: Column[Any], where: ColumnElement[bool]) -> None:
    """An index of those rows alone for which `where` holds."""
    Index(name, column, sqlite_where=where, postgresql_where=where)
