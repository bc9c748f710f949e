"""The tables as statements name them. What makes them is SQL: `migrations`."""

import functools
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
)

from mcp_persist_middleware.stores.sql.text import Text


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of one store."""

    meta: Table
    stream: Table
    event: Table
    session: Table
    worker: Table
    inbox: Table
    deletion: Table
    job: Table
    journal: Table


@functools.lru_cache(maxsize=8)
def tables(prefix: str) -> Tables:
    """The schema under a table prefix; made once, for it takes longer than to open a file."""
    metadata = MetaData()
    columns = {
        "meta": _meta(),
        "stream": _stream(),
        "event": _event(),
        "session": _session(),
        "worker": _worker(),
        "inbox": _inbox(),
        "deletion": _deletion(),
        "job": _job(),
        "journal": _journal(),
    }
    return Tables(**{name: Table(prefix + name, metadata, *of) for name, of in columns.items()})


def _meta() -> tuple[Column[Any], ...]:
    return (
        Column("name", String(64), primary_key=True),
        Column("value", LargeBinary, nullable=False),
    )


def _stream() -> tuple[Column[Any], ...]:
    return (
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
        Column("reader_until", Float),
        Column("request", LargeBinary),
    )


def _event() -> tuple[Column[Any], ...]:
    return (
        Column("stream", LargeBinary(16), primary_key=True),
        Column("sequence", BigInteger, primary_key=True),
        Column("epoch", Integer, nullable=False),
        Column("kind", SmallInteger, nullable=False),
        Column("codec", SmallInteger, nullable=False),
        Column("payload", LargeBinary, nullable=False),
    )


def _session() -> tuple[Column[Any], ...]:
    return (
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
        Column("began_at", Float),
    )


def _worker() -> tuple[Column[Any], ...]:
    return (
        Column("id", String(64), primary_key=True),
        Column("counter", BigInteger, nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("seen_at", Float, nullable=False),
        Column("public_key", LargeBinary),
        Column("schema", Integer),
    )


def _inbox() -> tuple[Column[Any], ...]:
    return (
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
    )


def _deletion() -> tuple[Column[Any], ...]:
    return (
        Column("id", String(32), primary_key=True),
        Column("at", Float, nullable=False),
        Column("reason", String(16), nullable=False),
        Column("namespace", Text, nullable=False),
        Column("kind", String(16), nullable=False),
        Column("number", BigInteger, nullable=False),
    )


def _job() -> tuple[Column[Any], ...]:
    return (
        Column("id", LargeBinary(24), primary_key=True),
        Column("namespace", Text, nullable=False),
        Column("path", Text, nullable=False),
        Column("session", Text, nullable=False),
        Column("principal", Text, nullable=False),
        Column("account", Text, nullable=False),
        Column("face", String(16), nullable=False),
        Column("worker", String(64), nullable=False),
        Column("tool", Text, nullable=False),
        Column("stream", LargeBinary(16), nullable=False),
        Column("request_id", Text, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("updated_at", Float, nullable=False),
        Column("expires_at", Float, nullable=False),
        Column("key", String(64), nullable=False),
        Column("arguments", String(64), nullable=False),
        Column("request", LargeBinary),
        Column("round", Integer, nullable=False),
        Column("inputs", LargeBinary, nullable=False),
        Column("revision", Integer, nullable=False),
    )


def _journal() -> tuple[Column[Any], ...]:
    return (
        Column("id", String(32), primary_key=True),
        Column("began", Float, nullable=False),
        Column("first_event", Float),
        Column("duration", Float, nullable=False),
        Column("method", Text, nullable=False),
        Column("tool", Text, nullable=False),
        Column("version", String(32), nullable=False),
        Column("outcome", String(16), nullable=False),
        Column("error", Text, nullable=False),
        Column("size", BigInteger, nullable=False),
        Column("resumes", Integer, nullable=False),
        Column("stream", LargeBinary(16), nullable=False),
        Column("namespace", Text, nullable=False),
        Column("path", Text, nullable=False),
        Column("session", Text, nullable=False),
        Column("principal", Text, nullable=False),
        Column("worker", Text, nullable=False),
        Column("trace", String(32), nullable=False),
        Column("params", LargeBinary, nullable=False),
    )


def quoted(table: Table) -> str:
    """A table's name as it stands in a statement that is written by hand: PostgreSQL would look
    for another one where it has capital letters."""
    return f'"{table.name}"'
