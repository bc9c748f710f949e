"""G4: a client cannot slow or kill a tool."""

import asyncio
import tracemalloc
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from mcp_persist_middleware import Persistence, PersistMiddleware
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.streams import disconnect
from tests.support.scripted import Call, Scripted, persisted, serving, until
from tests.support.session import HANDSHAKE, MODERN, RawSession
from tests.support.sse_client import parse_frame

LARGE = "x" * 4096


async def test_a_client_that_never_reads_does_not_hold_up_the_tool_and_is_cut(store: str) -> None:
    seen, finished = asyncio.Event(), asyncio.Event()

    async def flood(call: Call) -> None:
        await call.head()
        for value in range(1, 3001):
            await call.progress(value, LARGE)
            if value == 1:
                await seen.wait()
        await call.result()
        finished.set()

    async with persisted(Scripted(flood=flood), store, send_timeout=0.5) as (port, persistence):
        session = await RawSession.open(port)
        params = {"name": "flood", "arguments": {}}
        response = await session.post("tools/call", params, receive_buffer=4096)
        first = await response.take(1)
        (stream,) = (await access_to(persistence).context()).writer.live.values()
        assert stream.readers == 1
        seen.set()
        # 12 MB are more than any buffer between here and there takes.
        await asyncio.wait_for(finished.wait(), 30)
        await until(lambda: stream.readers == 0)
        response.reset()
        replay = await session.get(first[0].id)
        frames = await replay.take(3001)
        assert [frame.progress for frame in frames] == [*range(2, 3001), None]


async def test_the_application_hears_of_no_disconnect_and_its_result_is_kept(store: str) -> None:
    go_on = asyncio.Event()

    async def wait(call: Call) -> None:
        watcher = asyncio.create_task(call.watch())
        await call.head()
        await call.progress(1)
        await go_on.wait()
        await call.result()
        watcher.cancel()

    app = Scripted(wait=wait)
    async with persisted(app, store) as (port, persistence):
        session = await RawSession.open(port)
        response = await session.call("wait")
        first = await response.take(1)
        response.reset()
        context = await access_to(persistence).context()
        await until(lambda: context.detached)
        assert not app.calls[0].gone.is_set()
        go_on.set()
        replay = await session.get(first[0].id)
        assert (await replay.take(1))[0].is_response
        assert not app.calls[0].gone.is_set()


async def test_a_tool_that_outstays_its_client_is_cancelled_and_the_request_ends_in_order(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnect, "_LAST_WORD_SECONDS", 0.1)
    cancelled = asyncio.Event()

    async def deaf(call: Call) -> None:
        await call.begin_json()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    body = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "deaf"}}'
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    kinds = b"application/json", b"application/json, text/event-stream"
    names = b"content-type", b"accept"
    headers = [(b"mcp-protocol-version", b"2025-11-25"), *zip(names, kinds, strict=True)]
    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": headers}
    app = PersistMiddleware(Scripted(deaf=deaf), url=store)
    try:
        async with asyncio.timeout(10):
            await app(scope, receive, send)
    finally:
        await app.aclose()
    assert cancelled.is_set()
    assert sent == ["http.response.start"]


@pytest.mark.parametrize("kind", ["stream", "json"])
@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
async def test_work_behind_a_complete_answer_hears_that_it_is_over_and_goes_on(
    store: str, monkeypatch: pytest.MonkeyPatch, version: str, kind: str
) -> None:
    monkeypatch.setattr(disconnect, "_LAST_WORD_SECONDS", 0.05)
    done = asyncio.Event()

    async def report(call: Call) -> None:
        if kind == "stream":
            await call.head()
            await call.result()
        else:
            await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": {}})
        # As servers say it once an answer is complete.
        await call.watch()
        # What it does now takes longer than anybody has who was told to end.
        await asyncio.sleep(0.3)
        done.set()

    async with persisted(Scripted(report=report), store) as (port, _):
        session = await RawSession.open(port, version)
        response = await session.call("report")
        async with asyncio.timeout(5):
            await done.wait()
        response.reset()


async def test_work_that_nobody_comes_back_for_ends_after_detach_seconds(store: str) -> None:
    async def wait(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.watch()

    app = Scripted(wait=wait)
    async with persisted(app, store, detach_seconds=0.2) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("wait")
        first = await response.take(1)
        response.reset()
        await until(app.calls[0].gone.is_set)
        replay = await session.get(first[0].id)
        (end,) = await replay.take(1)
        assert end.message["error"]["code"] == -32000


async def test_2026_07_28_a_client_that_comes_back_within_the_grace_has_not_cancelled(
    store: str,
) -> None:
    go_on = asyncio.Event()

    async def wait(call: Call) -> None:
        watcher = asyncio.create_task(call.watch())
        await call.head()
        await call.progress(1)
        await go_on.wait()
        await call.result()
        watcher.cancel()

    app = Scripted(wait=wait)
    async with persisted(app, store, disconnect_grace=0.5) as (port, _):
        session = await RawSession.open(port, MODERN)
        back, away = await session.call("wait"), await session.call("wait")
        first = await back.take(1)
        await away.take(1)
        back.reset()
        away.reset()
        replay = await session.get(first[0].id)
        await until(app.calls[1].gone.is_set)
        assert not app.calls[0].gone.is_set()
        go_on.set()
        assert (await replay.take(1))[0].is_response


async def test_2026_07_28_an_equal_call_of_the_same_caller_ends_nobodys_grace(
    tmp_store: str,
) -> None:
    """Behind a gateway's one key it is another client's, and of one client it may be the next."""
    go_on = asyncio.Event()

    async def wait(call: Call) -> None:
        watcher = asyncio.create_task(call.watch())
        await call.head()
        await call.progress(1)
        await go_on.wait()
        await call.result()
        watcher.cancel()

    app = Scripted(wait=wait)
    async with persisted(app, tmp_store, disconnect_grace=10) as (port, persistence):
        extra = {"authorization": "Bearer gateway"}
        gone = await RawSession.open(port, MODERN, extra=extra)
        other = await RawSession.open(port, MODERN, extra=extra)
        response = await gone.call("wait")
        first = await response.take(1)
        response.reset()
        context = await access_to(persistence).context()
        await until(lambda: len(context.detached) == 1)
        equals = [await other.call("wait"), await gone.call("wait")]
        for equal in equals:
            await equal.take(1)
        assert not any(call.gone.is_set() for call in app.calls)
        replay = await gone.get(first[0].id)
        go_on.set()
        for answer in (replay, *equals):
            assert "result" in (await answer.take(1))[0].message
        assert len(app.calls) == 3


async def test_a_short_answer_leaves_as_one_response_and_is_given_up_where_nothing_is_taken(
    store: str,
) -> None:
    async def quick(call: Call) -> None:
        await call.head()
        await call.result()

    persistence = Persistence(store, send_timeout=0.3)
    persisting = PersistMiddleware(Scripted(quick=quick), persistence=persistence)
    sent: list[tuple[str, bool]] = []
    ended, is_stuck = asyncio.Event(), False

    async def server(scope: Any, receive: Any, send: Any) -> None:
        sent.clear()

        async def watched(message: Any) -> None:
            sent.append((message["type"], message.get("more_body", False)))
            if is_stuck and message["type"] == "http.response.body":
                await asyncio.Event().wait()
            await send(message)

        await persisting(scope, receive, watched)
        ended.set()

    whole = [("http.response.start", False), ("http.response.body", False)]
    async with serving(server) as port:
        session = await RawSession.open(port)
        response = await session.call("quick")
        assert (await response.take(1))[0].is_response
        assert sent == whole
        is_stuck = True
        ended.clear()
        stuck = await session.call("quick")
        await asyncio.wait_for(ended.wait(), 5)
        stuck.reset()
    await persistence.aclose()


async def test_readers_of_one_large_event_that_read_nothing_share_it(store: str) -> None:
    size, readers = 8 << 20, 30

    async def large(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.progress(2, "x" * size)
        await call.result()

    async with persisted(Scripted(large=large), store) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("large")
        (first, whole, _) = await response.take(3)
        response.reset()
        tracemalloc.start()
        async with AsyncExitStack() as stack:
            stack.callback(tracemalloc.stop)
            for _ in range(readers):
                blocked = await session.get(first.id, receive_buffer=4096)
                stack.callback(blocked.reset)
            _, peak = tracemalloc.get_traced_memory()
            assert peak < 2 * size + readers * 300_000, f"{peak / size:.1f} times the event"
            replay = await session.get(first.id)
            frames = await replay.take(2)
        assert frames[0].data == whole.data
        assert frames[1].is_response


async def test_a_keep_alive_never_lands_within_a_large_event(store: str) -> None:
    size, pinged = 16 << 20, asyncio.Event()

    async def large(call: Call) -> None:
        await call.head()
        await call.progress(1, "x" * size)
        # The keep-alive that became due while the event was on its way comes behind it.
        await pinged.wait()
        await call.result()

    async with persisted(Scripted(large=large), store, ping_seconds=0.05) as (port, _):
        session = await RawSession.open(port)
        params = {"name": "large", "arguments": {}}
        response = await session.post("tools/call", params, receive_buffer=4096)
        body = bytearray()
        async with aclosing(response.pieces()) as pieces:
            async for piece in pieces:
                if len(body) >> 20 != (len(body) + len(piece)) >> 20:
                    # Several times as long as the pause between two keep-alives.
                    await asyncio.sleep(0.1)
                body += piece
                if len(body) > size and b": ping" in body[size:]:
                    pinged.set()
        frames = [parse_frame(bytes(raw)) for raw in body.split(b"\r\n\r\n") if raw]
        # The priming event, the large one, the answer.
        messages = [frame.message for frame in frames if frame.data is not None]
        assert [bool(message) for message in messages] == [False, True, True]
        assert messages[1]["params"]["message"] == "x" * size
        assert any(frame.comment == "ping" for frame in frames)
