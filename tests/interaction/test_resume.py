"""What a cursor is answered, what a stream begins and ends with, and who receives a GET stream."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.log.cursor import Cursor, Page
from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.protocol import event_id
from mcp_persist_middleware.protocol.event_id import EventIds, StreamKind
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from mcp_persist_middleware.streams.pump import Exchange
from tests.contract.sqlite import direct
from tests.support.processes import mcp_server, running
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import HANDSHAKE, MODERN, RawSession
from tests.support.squeezed import Squeezed
from tests.support.sse_client import Frame, Response, request


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of a store of this test's own."""
    return f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"


async def three(call: Call) -> None:
    """Three events, then the answer."""
    await call.head()
    for value in (1, 2, 3):
        await call.progress(value)
    await call.result()


def moved(cursor: str, sequence: int) -> str:
    """The same cursor at another number."""
    stream, epoch, _, request = cursor.rsplit("-", 3)
    return f"{stream}-{epoch}-{sequence}-{request}"


async def test_a_finished_stream_answers_by_the_place_of_the_cursor(store: str) -> None:
    async with persisted(Scripted(three=three), store, store_timeout=1.0) as (port, _):
        session = await RawSession.open(port)
        frames = await (await session.call("three")).take(4)
        first, last = str(frames[0].id), str(frames[-1].id)

        inside = await session.get(first)
        replay = [frame async for frame in inside.frames()]
        assert replay[0].data == ""
        assert replay[0].id not in (first, last, None)
        assert [f.progress for f in replay if f.data] == [2, 3, None]
        assert [f.id for f in replay if f.data] == [f.id for f in frames[1:]]

        assert (await session.get(last)).status == 204

        ahead = await session.get(moved(last, 900))
        assert [f.is_response async for f in ahead.frames() if f.data] == [True]

        unknown = EventIds.of(event_id.new_stream_id(), StreamKind.POST, "an id").at(1, 1).decode()
        answer = await session.get(unknown)
        assert answer.status == 200
        assert answer.is_stream
        (error,) = [frame async for frame in answer.frames()]
        assert error.id is None
        assert error.message["id"] == "an id"
        assert error.message["error"]["code"] == -32000

        assert (await session.get("17")).status == 404


async def test_without_its_key_a_stream_ends_in_an_error_its_session_waits_and_others_go_on(
    store: str,
) -> None:
    old, new = {"old": b"o" * 32}, {"new": b"n" * 32}
    async with persisted(Scripted(three=three), store, encryption_keys=old) as (port, _):
        session = await RawSession.open(port)
        frames = await (await session.call("three")).take(4)
    async with persisted(Scripted(three=three), store, encryption_keys=new) as (port, _):
        later = replace(session, port=port)
        replay = [f async for f in (await later.get(frames[0].id)).frames() if f.data]
        assert [f.message["error"]["message"].endswith("cannot be read here") for f in replay] == [
            True
        ]
        assert (await later.call("three")).status == 503, "who comes back with the key finds it"
        other = await RawSession.open(port)
        assert len(await (await other.call("three")).take(4)) == 4
    async with persisted(Scripted(three=three), store, encryption_keys=new | old) as (port, _):
        later = replace(session, port=port)
        replay = [f async for f in (await later.get(frames[0].id)).frames() if f.data]
        assert [f.data for f in replay] == [f.data for f in frames[1:]]
        assert len(await (await later.call("three")).take(4)) == 4


async def test_whoever_comes_back_for_what_is_in_the_store_only_keeps_no_other_request_waiting(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a call that runs here, and has told more since than is kept in memory."""
    asked, go_on, ready = 0, asyncio.Event(), Cursor.ready

    def counted(cursor: Cursor) -> Page | None:
        nonlocal asked
        asked += 1
        return ready(cursor)

    async def many(call: Call) -> None:
        await call.head()
        for value in range(1000):
            await call.progress(value)
        await go_on.wait()
        await call.result()

    async with persisted(Scripted(many=many), store) as (port, _):
        session = await RawSession.open(port)
        told = await (await session.call("many")).take(1000)
        monkeypatch.setattr(Cursor, "ready", counted)
        again = await (await session.get(told[0].id)).take(999)
        assert [frame.id for frame in again] == [frame.id for frame in told[1:]]
        # It waits for the store, and does not look into the memory again and again meanwhile.
        assert asked < 50
        go_on.set()


async def test_a_young_cursor_is_looked_for_again(store: str) -> None:
    async with persisted(Scripted(three=three), store, store_timeout=0.6) as (port, _):
        session = await RawSession.open(port)
        unknown = EventIds.of(event_id.new_stream_id(), StreamKind.POST, 1).at(1, 0).decode()
        began = time.monotonic()
        (error,) = await (await session.get(unknown)).take(1)
        assert "error" in error.message
        assert time.monotonic() - began > 0.4


async def test_young_cursors_that_nobody_gave_cost_few_looks_and_keep_nobody_from_his_own(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: Counter[bytes] = Counter()
    find = SqliteLog.find

    async def late(self: SqliteLog, stream: bytes) -> StreamRecord | None:
        """The caller's own stream seems to be on its way to the store."""
        looks[stream] += 1
        return None if looks[stream] == 1 else await find(self, stream)

    def made_up() -> str:
        return EventIds.of(event_id.new_stream_id(), StreamKind.POST, 1).at(1, 0).decode()

    async with persisted(Scripted(three=three), store, store_timeout=2.0) as (port, persistence):
        session = await RawSession.open(port)
        context = await access_to(persistence).context()
        stranger = await RawSession.open(port, extra={"authorization": "Bearer else"})
        monkeypatch.setattr(SqliteLog, "find", late)
        answers = await asyncio.gather(*(stranger.get(cursor) for cursor in [made_up()] * 10))
        own = await (await session.call("three")).take(5)
        await until(lambda: not context.writer.live)
        waiting = [asyncio.create_task(stranger.get(made_up())) for _ in range(30)]
        await until(lambda: len(looks) == 31)
        replay = await session.get(own[0].id)
        assert [frame.progress for frame in await replay.take(2)] == [2, 3]
        later = await asyncio.gather(*waiting)
        ends = [(await answer.body()).decode() for answer in (*answers, *later)]
        assert ["error" in end for end in ends[:10]] == [True] * 10
        # Who waits for too many is told to come again.
        told = sorted("error" in end for end in ends[10:])
        assert told == [False] * 14 + [True] * 16
        assert all("retry:" in end or "error" in end for end in ends)
        assert max(looks.values()) <= 10 + 7


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cursor=st.text(st.characters(min_codepoint=33, max_codepoint=255), min_size=1, max_size=300))
def test_no_cursor_is_an_error_of_the_server(
    served: tuple[asyncio.Runner, int], cursor: str
) -> None:
    runner, port = served

    async def ask() -> int:
        session = RawSession(port, session_id="s")
        return (await session.get(cursor)).status

    assert runner.run(ask()) == 404


@pytest.fixture
def served(store: str):
    """A port and the event loop that serves it."""
    with asyncio.Runner() as runner:
        context = persisted(Scripted(three=three), store)
        port, _ = runner.run(context.__aenter__())
        yield runner, port
        runner.run(context.__aexit__(None, None, None))


@pytest.mark.parametrize(
    ("version", "primed", "retry"),
    [
        ("2025-03-26", False, 70),
        ("2025-06-18", False, 70),
        (HANDSHAKE, True, 70),
        (MODERN, True, 7),
    ],
)
async def test_a_stream_begins_as_its_revision_demands(
    store: str, version: str, primed: bool, retry: int
) -> None:
    async def slow(call: Call) -> None:
        await call.head((b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"))
        await asyncio.sleep(0.05)
        await call.progress(1)
        await call.result()

    times = {"retry_ms": 70, "modern_retry_ms": 7}
    async with persisted(Scripted(slow=slow), store, **times) as (port, _):
        session = await RawSession.open(port, version)
        response = await session.call("slow")
        frames = [frame async for frame in response.frames()]
        assert (frames[0].data == "") is primed
        assert frames[0].id is not None
        assert frames[0].retry == retry
        assert [frame.retry for frame in frames[1:]] == [None] * (len(frames) - 1)
        assert response.headers["x-accel-buffering"] == "no"
        cookies = [value for name, value in response.raw_headers if name == "set-cookie"]
        assert cookies == ["a=1", "b=2"]
        again = [frame async for frame in (await session.get(frames[0].id)).frames()]
        assert (again[0].data == "") is primed


async def test_a_quiet_stream_is_kept_alive(store: str) -> None:
    async def quiet(call: Call) -> None:
        await call.head()
        await call.watch()

    async with persisted(Scripted(quiet=quiet), store, ping_seconds=0.1) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("quiet")
        comments = []
        async for frame in response.frames():
            comments += [frame.comment] if frame.comment else []
            if len(comments) == 2:
                break
        assert comments == ["ping", "ping"]
        response.reset()


async def test_comments_of_the_application_reach_who_listens_at_once_and_nobody_twice(
    store: str,
) -> None:
    told = asyncio.Queue[str]()

    async def quiet(call: Call) -> None:
        await call.head()
        await call.say("early")
        while text := await told.get():
            await (call.progress(1) if text == "event" else call.say(text))
        await call.result()

    async with persisted(Scripted(quiet=quiet), store, ping_seconds=0) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("quiet")
        assert (await _comments(response, 1)) == ["early"]
        for text in ("busy", "ping - now"):
            told.put_nowait(text)
            assert (await _comments(response, 1)) == [text]
        told.put_nowait("event")
        (event,) = await response.take(1)
        back = await session.get(event.id)
        told.put_nowait("both")
        assert (await _comments(back, 1)) == (await _comments(response, 1)) == ["both"]
        response.reset()
        told.put_nowait("again")
        assert (await _comments(back, 1)) == ["again"]
        told.put_nowait("")
        assert [frame.comment for frame in await _all(back)] == [None]
        replayed = await _all(await session.get(moved(event.id, 0)))
        assert [frame.comment for frame in replayed] == [None] * 3


async def _comments(response, count: int) -> list[str]:
    found: list[str] = []
    async for frame in response.frames(timeout=5):
        found += [frame.comment] if frame.comment else []
        if len(found) == count:
            break
    return found


async def test_without_pings_a_quiet_stream_is_quiet(store: str) -> None:
    async def quiet(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.watch()

    async with persisted(Scripted(quiet=quiet), store, ping_seconds=0) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("quiet")
        await response.take(1)
        # A loop without a pause sends some thousands in this time.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(response.frames())
        response.reset()


async def test_a_resumed_connection_that_delivered_ends_cleanly_so_that_its_cursor_moves(
    store: str,
) -> None:
    more = asyncio.Semaphore(0)

    async def wait(call: Call) -> None:
        await call.head()
        for value in range(1, 4):
            await call.progress(value)
            await more.acquire()
        await call.result()

    async with persisted(Scripted(wait=wait), store, resume_rotate=0.2) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("wait")
        (first,) = await response.take(1)
        response.reset()
        silent = await session.get(first.id)
        primed = asyncio.create_task(_all(silent))
        # Nothing was delivered: this connection stays, however long it has been open.
        done, _ = await asyncio.wait({primed}, timeout=0.6)
        assert not done
        more.release()
        frames = await asyncio.wait_for(primed, 5)
        assert [frame.progress for frame in frames if frame.data] == [2]
        assert frames[-1].retry is not None
        assert frames[-1].retry < 100
        # Of the first connection, which never broke, nothing like that is true.
        for _ in range(3):
            more.release()


async def _all(response):
    return [frame async for frame in response.frames()]


async def test_the_newest_get_connection_receives_and_the_older_one_is_promoted(
    store: str,
) -> None:
    say = asyncio.Queue[int]()

    async def session_stream(call: Call) -> None:
        if len([c for c in app.calls if not c.request]) > 1:
            await call.json(409, {"error": "one stream for each session"})
            return
        await call.head()
        watcher = asyncio.create_task(call.watch())
        while (value := await say.get()) >= 0:
            await call.progress(value)
        watcher.cancel()
        await call.end()

    app = Scripted(GET=session_stream)
    async with persisted(app, store, store_timeout=1.0) as (port, _):
        session = await RawSession.open(port)
        one = await session.get()
        assert one.status == 200
        say.put_nowait(1)
        (seen,) = await one.take(1)
        two = await session.get()
        assert two.status == 200, "no 409, no fight"
        say.put_nowait(2)
        assert [frame.progress for frame in await two.take(1)] == [2]
        two.reset()
        say.put_nowait(3)
        assert [frame.progress for frame in await one.take(1)] == [3]
        one.reset()
        say.put_nowait(4)
        back = await session.get(seen.id)
        assert [frame.progress for frame in await back.take(3)] == [2, 3, 4]
        # A cursor of a GET stream that nobody knows gets a fresh stream, not an error.
        unknown = EventIds.of(b"\x01" * 16, StreamKind.GET, None).at(1, 1).decode()
        fresh = await session.get(unknown)
        say.put_nowait(5)
        assert [frame.progress for frame in await fresh.take(1)] == [5]
        say.put_nowait(-1)


async def test_a_session_stream_that_the_application_closes_is_the_same_when_it_opens_the_next(
    store: str,
) -> None:
    say = asyncio.Queue[int]()

    async def session_stream(call: Call) -> None:
        await call.head()
        while (value := await say.get()) >= 0:
            await call.progress(value)
        await call.end()

    async def heard(cursor: str | None, *values: int) -> list[Frame]:
        """All that a connection hears; meanwhile the application says this, and closes."""
        response = await session.get(cursor)
        assert response.status == 200
        for value in values:
            say.put_nowait(value)
        return [frame async for frame in response.frames() if frame.data]

    async with persisted(Scripted(GET=session_stream), store) as (port, persistence):
        session = await RawSession.open(port)
        first = await heard(None, 1, 2, -1)
        missed = await heard(first[0].id)
        second = await heard(missed[-1].id, 3, -1)
        third = await heard(None, 4, -1)
        assert [frame.progress for frame in (*first, *missed)] == [1, 2, 2]
        assert [frame.progress for frame in (*second, *third)] == [3, 4]
        at = [event_id.parse(frame.id or "") for frame in (*first, *second, *third)]
        assert len({each.stream for each in at if each}) == 1, "one stream"
        assert [(each.sequence, each.epoch) for each in at if each] == [
            (1, 1),
            (2, 1),
            (3, 2),
            (4, 3),
        ]
        # What only a client has of an epoch whose last instants were lost comes to nobody again.
        assert at[0] is not None
        ahead = EventIds.of(at[0].stream, StreamKind.GET, None).at(3, 9).decode()
        assert [frame.progress for frame in await heard(ahead, 5, -1)] == [5]
        assert await (await access_to(persistence).context()).log.active_writers() == []


async def test_a_session_stream_goes_on_when_its_end_is_still_on_its_way_to_the_store(
    store: str,
) -> None:
    closing = asyncio.Event()

    async def session_stream(call: Call) -> None:
        await call.head()
        await call.progress(len(app.calls))
        if len(app.calls) == 1:
            await closing.wait()
            await call.end()
        else:
            await call.watch()

    app = Scripted(GET=session_stream)
    async with persisted(app, store) as (port, persistence):
        session = await RawSession.open(port)
        (first,) = await (await session.get()).take(1)
        context = await access_to(persistence).context()
        with direct(Path(store.partition("///")[2])) as outside:
            outside.execute("BEGIN IMMEDIATE")
            closing.set()
            coming = asyncio.create_task(session.get())
            await until(lambda: len(app.calls) > 1)
            assert context.writer.live, "it is not committed"
            outside.execute("ROLLBACK")
        (second,) = await (await coming).take(1)
    before, after = event_id.parse(first.id or ""), event_id.parse(second.id or "")
    assert before is not None
    assert after is not None
    assert (after.stream, after.sequence, after.epoch) == (before.stream, 2, 2)


async def test_a_client_that_leaves_while_a_session_stream_goes_on_keeps_it_from_no_other(
    store: str,
) -> None:
    """Also where the application does not hear that it has left."""
    over = asyncio.Event()

    async def session_stream(call: Call) -> None:
        number = len(app.calls)
        await call.head()
        await call.progress(number)
        if number == 1:
            await call.end()
        else:
            await over.wait()

    async def to_the_third(response: Response) -> AsyncIterator[Frame]:
        async for frame in response.frames():
            if frame.data:
                yield frame
            if frame.progress == 3:
                return

    app = Scripted(GET=session_stream)
    async with persisted(app, store) as (port, _):
        session = await RawSession.open(port)
        (first,) = await (await session.get()).take(1)
        with direct(Path(store.partition("///")[2])) as outside:
            outside.execute("BEGIN IMMEDIATE")
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            lines = [f"{name}: {text}" for name, text in session.headers().items()]
            writer.write(("GET /mcp HTTP/1.1\r\nhost: x\r\n" + "\r\n".join(lines)).encode())
            writer.write(b"\r\n\r\n")
            await until(lambda: len(app.calls) == 2)
            writer.transport.abort()
            await asyncio.sleep(0.5)
            outside.execute("ROLLBACK")
        began = time.monotonic()
        frames = [frame async for frame in to_the_third(await session.get())]
        assert time.monotonic() - began < 3
        over.set()
    ids = [event_id.parse(frame.id or "") for frame in (first, *frames)]
    assert len({each.stream for each in ids if each}) == 1, "one stream"


async def test_a_client_that_comes_back_does_not_end_the_stream_that_it_comes_back_for(
    store: str,
) -> None:
    """Of an application in which each GET replaces the one before."""
    say = asyncio.Queue[int]()

    async def session_stream(call: Call) -> None:
        await call.head()
        while call is app.calls[-1]:
            await call.progress(await say.get())

    app = Scripted(GET=session_stream)
    async with persisted(app, store) as (port, _):
        session = await RawSession.open(port)
        response, cursor = await session.get(), None
        for value in range(6):
            say.put_nowait(value)
            (frame,) = await response.take(1)
            assert frame.progress == value
            response.reset()
            # One with a cursor, one without: either way the application is only asked.
            cursor = frame.id if value % 2 else None
            response = await session.get(cursor)
        assert len(app.calls) == 1


async def test_a_stream_outlives_the_process_that_wrote_it(tmp_path: Path) -> None:
    async with running(mcp_server(tmp_path)) as server:
        session = await RawSession.open(server.port)
        whole = await (await session.call("count", n=5, delay=0)).take(6)
        cut = await (await session.call("count", n=100_000, delay=0.01)).take(3)
        await server.kill()
        await server.start()
        replay = await (await session.get(whole[0].id)).take(5)
        assert [frame.data for frame in replay] == [frame.data for frame in whole[1:]]
        # The call that was running is over, and its client is told so.
        rest = [frame async for frame in (await session.get(cut[-1].id)).frames() if frame.data]
        assert "worker that ran this request is gone" in rest[-1].message["error"]["message"]
        values = [frame.progress for frame in rest[:-1]]
        assert values == list(range(4, 4 + len(values)))
        assert (await session.get(rest[-1].id)).status == 204


async def test_an_application_that_ends_without_an_answer_gets_one(store: str) -> None:
    async def silent(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.end()

    async def broken(call: Call) -> None:
        await call.head()
        await call.progress(1)
        raise RuntimeError("in the middle")

    async with persisted(Scripted(silent=silent, broken=broken), store) as (port, persistence):
        session = await RawSession.open(port)
        for tool in ("silent", "broken"):
            frames = await (await session.call(tool)).take(2)
            assert frames[-1].message["error"]["code"] == -32000
        context = await access_to(persistence).context()
        await until(lambda: not context.tasks)


async def test_a_batch_ends_when_each_of_its_ids_is_answered_and_ids_are_not_mixed_up(
    store: str,
) -> None:
    async def one(call: Call) -> None:
        await call.head()
        await call.emit({"id": 1, "result": {}})
        await call.progress(1)
        await call.end()

    class Batches(Scripted):
        """Runs the first of a batch."""

        async def _answer(self, call: Call) -> None:
            if isinstance(call.request, list):
                call.request = call.request[0]
            await super()._answer(call)

    async with persisted(Batches(one=one), store) as (port, _):
        session = await RawSession.open(port, "2025-03-26")
        params = {"name": "one", "arguments": {}}
        ids: list[Any] = [1, "1", "ü", 2.5]
        batch = [{"jsonrpc": "2.0", "id": i, "method": "tools/call", "params": params} for i in ids]
        response = await request(
            port, "POST", headers=session.headers(), body=json.dumps(batch).encode()
        )
        frames = [frame async for frame in response.frames() if frame.data]
        assert [frame.message["id"] for frame in frames if "result" in frame.message] == [1]
        ended = [frame.message["id"] for frame in frames if "error" in frame.message]
        assert sorted(ended, key=repr) == sorted(["1", "ü", 2.5], key=repr)
        assert {type(i) for i in ended} == {str, float}


@pytest.mark.parametrize("around", [lambda app: app, Squeezed])
async def test_a_late_json_answer_becomes_the_event_that_ends_an_early_stream(
    store: str, around: Any
) -> None:
    go_on = asyncio.Event()

    async def late(call: Call) -> None:
        if call.request["id"] == 99:
            await go_on.wait()
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": {"a": "b"}})

    async with persisted(around(Scripted(late=late)), store, prime_after=0.1) as (port, _):
        session = await RawSession.open(port, MODERN, extra={"accept-encoding": "gzip"})
        await (await session.call("late")).body()
        response = await session.post("tools/call", {"name": "late"}, request_id=99)
        frames = response.frames()
        primed = await anext(frames)
        assert primed.id is not None
        response.reset()
        go_on.set()
        (answer,) = await (await session.get(primed.id)).take(1)
        assert answer.message == {"jsonrpc": "2.0", "id": 99, "result": {"a": "b"}}


@pytest.mark.parametrize("refusal", [None, 400, 200])
async def test_a_late_answer_of_unknown_size_comes_as_the_application_sends_it(
    store: str, refusal: int | None
) -> None:
    """An error that the tool gave before says nothing of how long its result is."""
    refused = refusal is None

    async def large(call: Call) -> None:
        nonlocal refused
        if not refused:
            refused = True
            error = {"code": -32602, "message": "what is this?"}
            answer = {"jsonrpc": "2.0", "id": call.request["id"], "error": error}
            await call.json(refusal or 0, answer)
            return
        await asyncio.sleep(0.3)  # far later than an early start
        result = {"text": "x" * 1_500_000}
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": result})

    async def small(call: Call) -> None:
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": {}})

    app = Scripted(large=large, small=small)
    async with persisted(app, store, prime_after=0.05) as (port, _):
        session = await RawSession.open(port, MODERN)
        assert (await session.call("small")).status == 200
        if refusal is not None:
            assert (await session.call("large")).status == refusal
        for _ in range(2):
            response = await session.call("large")
            assert not response.is_stream, "clients refuse an event of more than 1 MiB"
            assert len(json.loads(await response.body())["result"]["text"]) == 1_500_000


async def test_a_request_whose_run_is_cancelled_before_it_began_is_answered(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with persisted(Scripted(three=three), store) as (port, _):
        session = await RawSession.open(port)
        start = Exchange.start

        def start_and_cancel(exchange: Exchange, body: Body) -> None:
            start(exchange, body)
            exchange.cancel()

        monkeypatch.setattr(Exchange, "start", start_and_cancel)
        async with asyncio.timeout(5):
            assert (await session.call("three")).status >= 500


async def test_a_late_answer_without_headers_is_told_as_one_of_no_known_kind(store: str) -> None:
    async def late(call: Call) -> None:
        if call.request["id"] == 99:
            await asyncio.sleep(0.3)
        answer = {"jsonrpc": "2.0", "id": call.request["id"], "result": {"a": "b"}}
        body = json.dumps(answer).encode()
        await call._send({"type": "http.response.start", "status": 200})
        await call._send({"type": "http.response.body", "body": body})

    async with persisted(Scripted(late=late), store, prime_after=0.05) as (port, _):
        session = await RawSession.open(port, MODERN)
        await (await session.call("late")).body()
        response = await session.post("tools/call", {"name": "late"}, request_id=99)
        assert response.is_stream
        (answer,) = await response.take(1)
        assert "HTTP status 200" in answer.message["error"]["message"]
