"""What belongs to one is erased: from every store, and from what a worker is about to write."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from starlette.requests import HTTPConnection

from mcp_persist_middleware import Forgotten, Persistence, StoreError, UnsupportedError
from mcp_persist_middleware.model import Beat, Outcome, SessionKey, StreamWrite, WorkerState
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.store import EventLog
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.testing import MemoryLog, Shelf
from mcp_persist_middleware.testing.contract.builders import claim, relayed, session
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession
from tests.support.stateful import Stateful
from tests.support.stores import BESIDE, STORES, Store

SECRET = "the diary of Ann"


@pytest.fixture(params=["sqlite", "sqlite+redis", "postgres+redis", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of this test's own."""
    return (STORES | BESIDE)[request.param](tmp_path, request.getfixturevalue)


def by_header(connection: HTTPConnection) -> str | None:
    """The `principal=` setting of these tests."""
    return connection.headers.get("x-user")


class Held:
    """An application whose calls send two events and wait for the test."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.app = Scripted(quick=self._quick, slow=self._slow)

    @staticmethod
    async def _quick(call: Call) -> None:
        await call.head()
        await call.progress(1, SECRET)
        await call.result(SECRET)

    async def _slow(self, call: Call) -> None:
        await call.head()
        await call.progress(1, SECRET)
        await call.progress(2, SECRET)
        await self.go_on.wait()
        await call.progress(3, SECRET)
        await call.result("after all")


@contextlib.asynccontextmanager
async def serving(app: Any, store: Store, **more: Any) -> AsyncIterator[tuple[int, Persistence]]:
    """The application behind the middleware, whose callers are named by a header."""
    settings = {"url": None, **store.settings, "principal": by_header, **more}
    async with persisted(app, **settings) as (port, persistence):
        yield port, persistence


async def of(port: int, user: str) -> RawSession:
    """A session of this user's."""
    return await RawSession.open(port, extra={"x-user": user})


async def streams(log: EventLog) -> list[str]:
    """The sessions of all streams that the store has."""
    found: list[str] = []
    after = b""
    while page := await log.streams(after, 100):
        found += [record.owner.session for record in page]
        after = page[-1].id
    return found


async def has_settled(context: Context) -> None:
    """Return when nothing is written here any more."""
    await until(lambda: not context.writer.live)


async def test_what_belongs_to_a_principal_is_erased_and_nothing_of_anybody_else(
    store: Store,
) -> None:
    held = Held()
    async with serving(held.app, store) as (port, persistence):
        context = await access_to(persistence).context()
        ann, ben = await of(port, "ann"), await of(port, "ben")
        for each in (ann, ben):
            await (await each.call("quick")).body()
        running, his = await ann.call("slow"), await ben.call("slow")
        for response in (running, his):
            await response.take(2)
        gone = await persistence.forget(principal="ann")
        # `initialize` is a stream as well.
        assert (gone.streams, gone.sessions) == (3, 1)
        assert gone.events >= 5
        assert set(await streams(context.log)) <= {"", ben.session_id}
        assert await persistence.forget(principal="ann") == Forgotten()
        held.go_on.set()
        rest = [frame async for frame in running.frames()]
        assert "after all" in str(rest[-1].message), "her call goes on"
        assert [frame.id for frame in rest] == [None, None], "and there is no way back to it"
        assert "after all" in str([frame async for frame in his.frames()][-1].message)
        await has_settled(context)
        assert set(await streams(context.log)) <= {"", ben.session_id}
        assert await persistence.forget(session=ben.session_id) != Forgotten()


async def test_a_request_on_its_way_to_the_worker_of_an_erased_session_is_not_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def workers() -> dict[str, Beat]:
        return {"elsewhere": Beat(1, WorkerState.LIVE, 0.0)}

    async with Persistence(**store.settings) as persistence:
        log = (await access_to(persistence).context()).log
        # One that nobody finds to be gone.
        monkeypatch.setattr(log, "workers", workers)
        key = SessionKey("default", "/mcp", "hers")
        record = replace(session("hers"), key=key, home="elsewhere", expires_at=log.now() + 60)
        await log.sessions.create(record)
        await claim(log, "elsewhere")
        # Not over, or retention takes it.
        request = relayed(worker="elsewhere", key=key, deadline=log.now() + 60)
        await log.inbox.put(request, 10)
        gone = await persistence.forget(principal=record.principal)
        assert gone == Forgotten(sessions=1, relayed=1)
        assert await claim(log, "elsewhere") == []


async def test_a_file_has_not_one_byte_of_what_was_erased(tmp_path: Path) -> None:
    store, held = STORES["sqlite"](tmp_path, lambda _: None), Held()
    async with serving(held.app, store, rerun=lambda *_: True) as (port, persistence):
        hers = await of(port, "ann")
        await (await hers.call("quick", note=SECRET)).body()
        running = await hers.call("slow", note=SECRET)
        await running.take(2)
        gone = await persistence.forget(principal="ann")
        assert gone.requests == 1, "what would have been run again"
        held.go_on.set()
        await running.body()
        await has_settled(await access_to(persistence).context())
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    assert kept
    for trace in (SECRET, hers.session_id or ""):
        assert trace.encode() not in kept


async def test_a_call_on_another_worker_stores_nothing_more(store: Store) -> None:
    held = Held()
    async with (
        serving(held.app, store) as (port, persistence),
        serving(held.app, store, purge_interval=61) as (_, other),
    ):
        ann = await of(port, "ann")
        running = await ann.call("slow")
        await running.take(2)
        context, elsewhere = (
            await access_to(persistence).context(),
            await access_to(other).context(),
        )
        assert context.member.name != elsewhere.member.name
        gone = await other.forget(principal="ann")
        assert (gone.sessions, gone.events >= 2) == (1, True)
        held.go_on.set()
        assert "after all" in str([frame async for frame in running.frames()][-1].message)
        await has_settled(context)
        assert ann.session_id not in await streams(context.log)


async def test_redis_has_nothing_of_what_was_erased(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store, held = STORES["sqlite+redis"](tmp_path, request.getfixturevalue), Held()
    async with serving(held.app, store) as (port, persistence):
        running = await (await of(port, "ann")).call("slow")
        await running.take(2)
        await persistence.forget(principal="ann")
        held.go_on.set()
        await running.body()
        await has_settled(await access_to(persistence).context())
        async with redis.asyncio.Redis.from_url(store.settings["redis"]) as client:
            values = [await kept(client, key) async for key in client.scan_iter("mcp_*")]
    assert not any(SECRET.encode() in value for value in values)


async def kept(client: "redis.asyncio.Redis", key: bytes) -> bytes:
    """All that is in a key."""
    match await client.type(key):
        case b"stream":
            return repr(await client.xrange(key)).encode()
        case b"hash":
            return repr(await client.hgetall(key)).encode()
        case _:
            return b""


async def test_what_waits_for_the_store_is_erased_with_the_rest(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    async with persisted(held.app, tmp_store, principal=by_header) as (port, persistence):
        context = await access_to(persistence).context()
        ann = await of(port, "ann")
        await has_settled(context)
        append, may_go = context.log.append, asyncio.Event()

        async def later(batch: Sequence[StreamWrite]) -> list[Outcome]:
            await may_go.wait()
            return await append(batch)

        monkeypatch.setattr(context.log, "append", later)
        asking = asyncio.create_task(ann.call("slow"))
        await until(lambda: any(live.waiting == 2 for live in context.writer.live.values()))
        forgetting = asyncio.create_task(persistence.forget(principal="ann"))
        done, _ = await asyncio.wait({forgetting}, timeout=0.3)
        assert not done, "it is not in the store yet, and would be there after it"
        may_go.set()
        gone = await forgetting
        assert (gone.sessions, gone.events >= 2) == (1, True)
        held.go_on.set()
        await (await asking).body()
        await has_settled(context)
        assert await streams(context.log) == []


async def test_the_answer_of_a_call_that_went_on_without_the_store_is_not_brought_there_later(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, settings = Held(), {"principal": by_header, "store_timeout": 1.0}
    async with persisted(held.app, tmp_store, **settings) as (port, persistence):
        context = await access_to(persistence).context()
        ann = await of(port, "ann")
        await has_settled(context)

        async def away(_: Sequence[StreamWrite]) -> list[Outcome]:
            raise StoreError(url="the store", reason="it is away")

        monkeypatch.setattr(context.log, "append", away)
        running = await ann.call("slow")
        await until(lambda: any(live.degraded for live in context.writer.live.values()))
        await persistence.forget(principal="ann")
        monkeypatch.undo()
        held.go_on.set()
        await running.body()
        await has_settled(context)
        assert await streams(context.log) == []


async def test_a_session_that_was_erased_is_unknown_to_its_client(tmp_store: str) -> None:
    app = Stateful()
    async with persisted(app, tmp_store, principal=by_header) as (port, persistence):
        ann, ben = await of(port, "ann"), await of(port, "ben")
        await persistence.forget(session=ann.session_id)
        assert ann.session_id in app.sessions, "what the application keeps is its own"
        assert (await ann.call("count")).status == 404
        assert (await ben.call("count")).status == 200
        gone = await persistence.forget(namespace="default")
        assert gone.sessions == 1
        assert (await ben.call("count")).status == 404


@pytest.mark.parametrize(
    "named", [{}, {"principal": ""}, {"session": ""}, {"namespace": "", "principal": "ann"}]
)
async def test_nobody_is_told_that_nothing_was_erased_because_nobody_was_named(
    tmp_store: str, named: dict[str, str]
) -> None:
    async with Persistence(url=tmp_store) as persistence:
        with pytest.raises(ValueError, match=r"name whose|nobody's"):
            await persistence.forget(**named)


async def test_the_bearer_of_a_token_is_named_by_its_claims(tmp_store: str) -> None:
    class Token:
        claims = {"iss": "https://login.example", "sub": "ann"}  # noqa: RUF012
        client_id = "app"

    class User:
        is_authenticated, access_token = True, Token()

    scripted = Held()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["user"] = User()
        await scripted.app(scope, receive, send)

    async with persisted(app, tmp_store) as (port, persistence):
        await (await (await RawSession.open(port)).call("quick")).body()
        await has_settled(await access_to(persistence).context())
        assert await persistence.forget(principal="ann") == Forgotten()
        gone = await persistence.forget(principal=("https://login.example", "ann", "app"))
        assert gone.streams == 2


@pytest.mark.parametrize("lacks", ["streams", "remove"])
async def test_a_store_that_cannot_erase_says_which_method_it_lacks_and_erases_nothing(
    lacks: str,
) -> None:
    older = type("Older", (MemoryLog,), {lacks: getattr(EventLog, lacks)})
    shelf = Shelf()
    async with Persistence(log=lambda _: older(shelf)) as persistence:
        await (await access_to(persistence).context()).log.sessions.create(
            session("hers", expires_at=1e12)
        )
        with pytest.raises(UnsupportedError, match=f"Older does not implement '{lacks}'"):
            await persistence.forget(principal="ann")
    assert len(shelf.kept("session")) == 1
