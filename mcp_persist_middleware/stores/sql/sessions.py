"""The registry of sessions in SQL, one statement for each operation."""

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from sqlalchemy import and_, case, delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.parts import Sessions
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import RelayState, SessionKey, SessionRecord, SessionStreamState
from mcp_persist_middleware.stores.sql.listing import belonging
from mcp_persist_middleware.stores.sql.packing import pack, unpack
from mcp_persist_middleware.stores.sql.rows import reading
from mcp_persist_middleware.stores.sql.store import SqlStore

_TOGETHER = 500


class SqlSessions(Sessions):
    """`Sessions` in the tables of a `SqlStore`: what every dialect shares."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._table = store.tables.session

    def _is(self, key: SessionKey) -> Any:
        c = self._table.c
        return and_(c.namespace == key.namespace, c.path == key.path, c.id == key.id)

    def _lives(self, key: SessionKey, generation: int | None) -> Any:
        c = self._table.c
        in_it = () if generation is None else (c.generation == generation,)
        return and_(self._is(key), *in_it, c.deleted.is_(False))

    def now(self) -> float:
        return self._store.now()

    async def create(self, record: SessionRecord) -> bool:
        key = record.key
        row = insert(self._table).values(
            namespace=key.namespace,
            path=key.path,
            id=key.id,
            principal=record.principal,
            version=record.version,
            initialize=pack(record.initialize),
            generation=record.generation,
            home=record.home,
            deleted=record.deleted,
            expires_at=record.expires_at,
            segments="",
            turn=0,
            turn_worker="",
            read_stream=b"",
            read_sequence=0,
            began_at=record.began_at or None,
            **_noted(record),
        )
        try:
            await self._store.execute(row)
        except IntegrityError:
            return False
        return True

    def _of(self, row: Any) -> SessionRecord:
        with reading(self._store.name, "session"):
            return session_of(row)

    async def move(self, key: SessionKey, generation: int, home: str) -> bool:
        c = self._table.c
        held = update(self._table).where(self._lives(key, generation))
        moved = held.values(generation=generation + 1, home=home)
        inbox = self._store.tables.inbox
        won = exists().where(self._is(key), c.generation == generation + 1, c.home == home)
        # A relayed request is nobody else's until it is claimed: the winner runs what waited for
        # the loser.
        waiting = self._store.rows(
            inbox,
            inbox.c.namespace == key.namespace,
            inbox.c.path == key.path,
            inbox.c.session == key.id,
            inbox.c.state == int(RelayState.PENDING),
        )
        readdressed = (
            update(inbox).where(waiting, won).values(worker=home, generation=generation + 1)
        )
        return (await self._store.execute_together(moved, readdressed))[0] == 1

    async def note(self, record: SessionRecord) -> None:
        known = update(self._table).where(self._lives(record.key, record.generation))
        await self._store.execute(known.values(**_noted(record)))

    async def touch(self, keys: Iterable[SessionKey], expires_at: float) -> int:
        living, there = self._table.c.deleted.is_(False), 0
        for some in self._among(keys):
            used = update(self._table).where(self._store.rows(self._table, some, living))
            there += await self._store.execute(used.values(expires_at=expires_at))
        return there

    async def delete(
        self, key: SessionKey, expires_at: float, generation: int | None = None
    ) -> bool:
        gone = update(self._table).where(self._lives(key, generation))
        empty = {"initialize": b"", "level": "", "subscriptions": "[]"}
        values = gone.values(deleted=True, expires_at=expires_at, **empty)
        if await self._store.execute(values) == 1:
            return True
        found = await self.find(key)
        return found is None or found.deleted

    async def purge(self, now: float, limit: int) -> int:
        c = self._table.c
        expired = (
            select(c.namespace, c.path, c.id)
            .where(c.expires_at <= now)
            .order_by(c.expires_at)
            .limit(limit)
        )
        keys = [
            SessionKey(row.namespace, row.path, row.id) for row in await self._store.all(expired)
        ]
        # One that was used meanwhile stays.
        late = [
            self._store.rows(self._table, some, c.expires_at <= now) for some in self._among(keys)
        ]
        told, gone = (c.began_at, c.version, c.deleted), 0
        for each in late:
            rows = await self._store.all(delete(self._table).where(each).returning(*told))
            gone += len(rows)
            for row in rows:
                if not row.deleted:
                    telemetry.tell_session_end(row.began_at or 0.0, now, row.version, "expired")
        return gone

    async def own_streams(self, namespace: str | None = None) -> Collection[bytes]:
        c = self._table.c
        meant = [] if namespace is None else [c.namespace == namespace]
        rows = await self._store.all(select(c.read_stream).where(c.read_stream != b"", *meant))
        return [bytes(row.read_stream) for row in rows]

    async def forget(self, whose: Whose) -> Collection[SessionKey]:
        c, gone = self._table.c, list[SessionKey]()
        meant = select(c.namespace, c.path, c.id).where(*belonging(c, "id", whose)).limit(_TOGETHER)
        while keys := [SessionKey(*key) for (*key,) in await self._store.all(meant)]:
            for some in self._among(keys):
                of_some = self._store.rows(self._table, some)
                await self._store.execute(delete(self._table).where(of_some))
            gone += keys
        return gone

    async def stream_state(self, key: SessionKey) -> SessionStreamState | None:
        c = self._table.c
        columns = (c.turn, c.turn_worker, c.read_stream, c.read_sequence)
        row = await self._store.first(select(*columns).where(self._is(key)))
        return None if row is None else SessionStreamState(*row)

    async def begin_stream(self, key: SessionKey, stream: bytes) -> None:
        begun = update(self._table).where(self._is(key), self._table.c.read_stream != stream)
        await self._store.execute(begun.values(read_stream=stream, read_sequence=0))

    async def activate(self, key: SessionKey, turn: int, worker: str) -> bool:
        taken = update(self._table).where(self._is(key), self._table.c.turn == turn)
        return await self._store.execute(taken.values(turn=turn + 1, turn_worker=worker)) == 1

    async def checkpoint(
        self, key: SessionKey, turn: int, worker: str, stream: bytes, sequence: int
    ) -> bool:
        c = self._table.c
        is_behind = and_(c.read_stream == stream, c.read_sequence < sequence)
        read = case((is_behind, sequence), else_=c.read_sequence)
        held = update(self._table).where(self._is(key), c.turn == turn)
        if await self._store.execute(held.values(turn_worker=worker, read_sequence=read)) == 1:
            return True
        late = update(self._table).where(self._is(key), is_behind)
        await self._store.execute(late.values(read_sequence=sequence))
        return False

    def _among(self, keys: Iterable[SessionKey]) -> Iterator[Any]:
        """Conditions that find these sessions by the primary key (SQLite walks the table for a
        list of whole keys)."""
        by_place: dict[tuple[str, str], list[str]] = {}
        for key in keys:
            by_place.setdefault((key.namespace, key.path), []).append(key.id)
        c = self._table.c
        for (namespace, path), ids in by_place.items():
            yield and_(c.namespace == namespace, c.path == path, c.id.in_(ids))


def _noted(record: SessionRecord) -> dict[str, Any]:
    return {
        "fingerprint": record.fingerprint,
        "level": record.level,
        "subscriptions": json.dumps(record.subscriptions),
    }


def session_of(row: Any) -> SessionRecord:
    """The record in a row of the session table.

    Raises:
        ValueError: it is of another version, or damaged.
    """
    return SessionRecord(
        key=SessionKey(row.namespace, row.path, row.id),
        principal=row.principal,
        version=row.version,
        initialize=unpack(row.initialize),
        generation=row.generation,
        home=row.home,
        deleted=row.deleted,
        expires_at=row.expires_at,
        fingerprint=row.fingerprint,
        level=row.level,
        subscriptions=tuple(json.loads(row.subscriptions)),
        # A store that is only looked at may be older than this column.
        began_at=getattr(row, "began_at", None) or 0.0,
    )
