"""Sessions, relayed requests and workers over small records by key."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from urllib.parse import quote, unquote

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.parts import Inbox, Sessions, WorkerTable
from mcp_persist_middleware.log.records import Fields, Records, unpacked
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import (
    Beat,
    Certainty,
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayState,
    RelayStatus,
    SessionKey,
    SessionRecord,
    SessionStreamState,
    WorkerState,
)


class RecordWorkers(WorkerTable):
    """`WorkerTable` over records."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def enrol(self, worker: str) -> None:
        await self.deregister(worker)
        row = {"counter": 1, "state": int(WorkerState.LIVE), "seen_at": self.now()}
        await self._records.create(f"worker/{worker}", row)

    async def deregister(self, worker: str) -> None:
        """See `EventLog.deregister`."""
        await self._records.remove(f"worker/{worker}")

    async def beat(self, worker: str, state: WorkerState) -> bool:
        def beats(row: Fields) -> Fields | None:
            moved = {"counter": row["counter"] + 1, "state": int(state), "seen_at": self.now()}
            return None if row["state"] == WorkerState.DEAD else moved

        return await self._records.change(f"worker/{worker}", beats)

    async def look(self) -> Mapping[str, Beat]:
        return {
            worker: Beat(row["counter"], WorkerState(row["state"]), row["seen_at"])
            async for worker, row in self._records.all("worker/")
        }

    async def declare_dead(self, worker: str, counter: int) -> bool:
        """See `EventLog.declare_dead`."""
        dead = {"state": int(WorkerState.DEAD)}
        return await self._records.change(
            f"worker/{worker}", lambda row: dead if row["counter"] == counter else None
        )

    async def aclose(self) -> None:
        await self._records.aclose()


class RecordSessions(Sessions):
    """`Sessions` over records. A move takes no relayed request along: whoever claims it sees
    that."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def create(self, record: SessionRecord) -> bool:
        fields = dataclasses.asdict(record) | SessionStreamState()._asdict()
        return await self._records.create(_key_of(record.key), fields)

    async def find(self, key: SessionKey) -> SessionRecord | None:
        fields = await self._records.read(_key_of(key))
        return None if fields is None else _session(fields)

    async def list(
        self, after: SessionKey | None, limit: int
    ) -> Sequence[tuple[SessionRecord, SessionStreamState]]:
        begin = "session/" if after is None else _key_of(after)
        found = await self._records.list("session/", begin, limit)
        each = [unpacked(record) for _, record in found]
        return [(_session(fields), _stream_state(fields)) for fields in each]

    async def _edit(self, key: SessionKey, changes: Fields, generation: int | None = None) -> bool:
        def edited(it: Fields) -> Fields | None:
            return None if it["deleted"] or generation not in (None, it["generation"]) else changes

        return await self._records.change(_key_of(key), edited)

    async def move(self, key: SessionKey, generation: int, home: str) -> bool:
        return await self._edit(key, {"generation": generation + 1, "home": home}, generation)

    async def note(self, record: SessionRecord) -> None:
        names = ("fingerprint", "level", "subscriptions")
        noted = {name: getattr(record, name) for name in names}
        await self._edit(record.key, noted, record.generation)

    async def touch(self, keys: Iterable[SessionKey], expires_at: float) -> int:
        return sum([await self._edit(key, {"expires_at": expires_at}) for key in keys])

    async def delete(
        self, key: SessionKey, expires_at: float, generation: int | None = None
    ) -> bool:
        nothing = {"initialize": b"", "level": "", "subscriptions": ()}
        gone = {"deleted": True, "expires_at": expires_at, **nothing}
        is_gone = await self._edit(key, gone, generation)
        return is_gone or (found := await self.find(key)) is None or found.deleted

    async def purge(self, now: float, limit: int) -> int:
        def told(row: Fields) -> None:
            if not row["deleted"]:
                began_at = row.get("began_at", 0.0)
                telemetry.tell_session_end(began_at, now, row["version"], "expired")

        return await _purge(self._records, "session/", "expires_at", now, limit, told)

    async def forget(self, whose: Whose) -> Collection[SessionKey]:
        gone = []
        async for name, fields in self._records.all("session/"):
            key = SessionKey(*(unquote(part, errors="surrogatepass") for part in name.split("/")))
            if whose.has_session(key, fields["principal"]):
                await self._records.remove(f"session/{name}")
                gone.append(key)
        return gone

    async def stream_state(self, key: SessionKey) -> SessionStreamState | None:
        fields = await self._records.read(_key_of(key))
        return None if fields is None else _stream_state(fields)

    async def begin_stream(self, key: SessionKey, stream: bytes) -> None:
        begun = {"stream": stream, "sequence": 0}
        await self._records.change(
            _key_of(key), lambda session: None if session["stream"] == stream else begun
        )

    async def activate(self, key: SessionKey, turn: int, worker: str) -> bool:
        taken = {"turn": turn + 1, "worker": worker}
        return await self._records.change(
            _key_of(key), lambda session: taken if session["turn"] == turn else None
        )

    async def checkpoint(
        self, key: SessionKey, turn: int, worker: str, stream: bytes, sequence: int
    ) -> bool:
        def further(session: Fields) -> Fields:
            is_further = session["stream"] == stream and session["sequence"] < sequence
            return {"sequence": sequence} if is_further else {}

        if await self._records.change(
            _key_of(key),
            lambda it: {"worker": worker} | further(it) if it["turn"] == turn else None,
        ):
            return True
        await self._records.change(_key_of(key), lambda session: further(session) or None)
        return False


class RecordInbox(Inbox):
    """`Inbox` over records. Whoever claims a relayed request looks at all that are there."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def publish(self, worker: str, public_key: bytes) -> None:
        key = {"public_key": public_key}
        await self._records.change(f"worker/{worker}", lambda _: key)

    async def public_key(self, worker: str) -> bytes | None:
        row = await self._records.read(f"worker/{worker}")
        return None if row is None else row.get("public_key")

    async def _of(self, worker: str, state: RelayState) -> list[Fields]:
        found = [row async for _, row in self._records.all("request/")]
        return [row for row in found if (row["worker"], row["state"]) == (worker, int(state))]

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        if len(await self._of(request.worker, RelayState.PENDING)) >= most:
            return EnqueueResult.FULL
        row = dataclasses.asdict(request) | {"state": int(RelayState.PENDING), "reply": b""}
        if not await self._records.create(_request_key(request.id), row):
            raise StoreError(url="of records", reason="the relayed request was tombstoned")
        return EnqueueResult.ENQUEUED

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        waiting = await self._of(worker, RelayState.PENDING)
        taken = {"state": int(RelayState.CLAIMED), "content": b"", "deadline": deadline}
        claimed: list[RelayRequest] = []
        for row in [row for row in waiting if row["deadline"] > now][:limit]:
            if await self._change(row["id"], RelayState.PENDING, worker, taken):
                named = {each.name: row[each.name] for each in dataclasses.fields(RelayRequest)}
                claimed.append(RelayRequest(**named | {"key": SessionKey(*row["key"])}))
        return claimed

    async def _change(self, request: bytes, state: RelayState, worker: str, fields: Fields) -> bool:
        """Change a relayed request that is a worker's and in this state."""
        mine = (worker, int(state))
        return await self._records.change(
            _request_key(request),
            lambda it: fields if (it["worker"], it["state"]) == mine else None,
        )

    async def claimed(self, worker: str) -> list[bytes]:
        return [row["id"] for row in await self._of(worker, RelayState.CLAIMED)]

    async def renew(
        self, worker: str, requests: Collection[bytes], deadline: float
    ) -> Collection[bytes]:
        later = {"deadline": deadline}
        return [
            request
            for request in requests
            if await self._change(request, RelayState.CLAIMED, worker, later)
        ]

    async def withdraw(self, request: RelayRequestId) -> bool:
        waiting = int(RelayState.PENDING)
        return await self._records.remove(
            _request_key(request.id), lambda it: it["state"] == waiting
        )

    async def tombstone(self, request: RelayRequestId, deadline: float, reply: bytes = b"") -> bool:
        answered = {"state": int(RelayState.REPLIED), "deadline": deadline, "reply": reply}
        return await self._records.create(_request_key(request.id), {"worker": "", **answered})

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        done = {"state": int(RelayState.REPLIED), "reply": reply, "deadline": deadline}
        return await self._change(request, RelayState.CLAIMED, worker, done)

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        row = await self._records.read(_request_key(request.id))
        if row is None:
            return None
        state = RelayState(row["state"])
        is_overdue = state is RelayState.CLAIMED and row["deadline"] < self.now()
        certainty = Certainty.OVERDUE if is_overdue else Certainty.KNOWN
        return RelayStatus(state, row["worker"], row["reply"], certainty)

    async def remove(self, requests: Collection[RelayRequestId]) -> None:
        for request in requests:
            await self._records.remove(_request_key(request.id))

    async def purge(self, now: float, limit: int) -> int:
        return await _purge(self._records, "request/", "deadline", now, limit)

    async def forget(self, is_meant: Callable[[SessionKey], bool], workers: Collection[str]) -> int:
        del workers
        gone = 0
        async for name, row in self._records.all("request/"):
            # One that only bars another is nobody's.
            if "key" in row and is_meant(SessionKey(*row["key"])):
                gone += await self._records.remove(f"request/{name}")
        return gone


async def _purge(
    records: Records,
    prefix: str,
    until: str,
    now: float,
    limit: int,
    on_gone: Callable[[Fields], None] = lambda _: None,
) -> int:
    """Remove at most so many of the records that are over."""
    gone = 0
    async for key, row in records.all(prefix):
        if gone >= limit:
            break
        if row[until] <= now:
            went = await records.remove(prefix + key, lambda it: bool(it[until] <= now))
            gone += went
            if went:
                on_gone(row)
    return gone


def _session(fields: Fields) -> SessionRecord:
    names = [each.name for each in dataclasses.fields(SessionRecord)]
    named = {name: fields[name] for name in names if name in fields}
    key = SessionKey(*named["key"])
    return SessionRecord(**named | {"key": key, "subscriptions": (*named["subscriptions"],)})


def _stream_state(fields: Fields) -> SessionStreamState:
    return SessionStreamState(**{name: fields[name] for name in SessionStreamState._fields})


def _key_of(key: SessionKey) -> str:
    return "session/" + "/".join(quote(part, safe="", errors="surrogatepass") for part in key)


def _request_key(request: bytes) -> str:
    return f"request/{request.hex()}"
