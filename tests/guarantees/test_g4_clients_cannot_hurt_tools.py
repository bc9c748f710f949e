"""G4: a client cannot slow or kill a tool."""

import asyncio

from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import MODERN, RawSession

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
        (stream,) = (await persistence.context()).writer.live.values()
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
        context = await persistence.context()
        await until(lambda: context.detached)
        assert not app.calls[0].gone.is_set()
        go_on.set()
        replay = await session.get(first[0].id)
        assert (await replay.take(1))[0].is_response
        assert not app.calls[0].gone.is_set()


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
        context = await persistence.context()
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
