"""The tables, and the version they carry."""

from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

VERSION = 1


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one store."""

    metadata: MetaData
    meta: Table
    stream: Table
    event: Table
    session: Table


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
        sqlite_with_rowid=False,
    )
    # Only ended streams have an expiry, so the index holds nothing of the living.
    Index(
        prefix + "stream_expiry", stream.c.expires_at, sqlite_where=stream.c.expires_at.is_not(None)
    )
    Index(prefix + "stream_session", stream.c.session, sqlite_where=stream.c.session != "")
    # The living alone: what a worker leaves behind is found however long the history is.
    Index(prefix + "stream_open", stream.c.worker, sqlite_where=stream.c.ended_at.is_(None))
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
        sqlite_with_rowid=False,
    )
    Index(prefix + "session_expiry", session.c.expires_at)
    return Tables(metadata, meta, stream, event, session)
