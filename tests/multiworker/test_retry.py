"""How soon a client is asked back: soon where another worker answers, late where none may be
there."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from mcp_persist_middleware import Persistence
from mcp_persist_middleware.persistence import access_to
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import HANDSHAKE, MODERN, RawSession

ALONE = {HANDSHAKE: 3000, MODERN: 2000}


async def peers(persistence: Persistence, *, there: bool) -> None:
    """Return when a worker knows whether there is another one."""
    member = (await access_to(persistence).context()).member
    await until(lambda: member.peers.has_peers(member.name) is there)


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
async def test_a_client_is_asked_back_sooner_while_another_worker_is_there(
    tmp_store: str, version: str
) -> None:
    async def slow(call: Call) -> None:
        await call.head()
        await asyncio.sleep(0.05)
        await call.progress(1)
        await call.result()

    async with persisted(Scripted(slow=slow), tmp_store) as (port, persistence):
        session = await RawSession.open(port, version)

        async def asked() -> list[int]:
            frames = [frame async for frame in (await session.call("slow")).frames()]
            resumed = [f async for f in (await session.get(frames[0].id)).frames()]
            return [frame.retry for frame in (*frames, *resumed) if frame.retry is not None]

        assert await asked() == [ALONE[version]] * 2
        async with AsyncExitStack() as beside:
            other = Persistence(url=tmp_store, purge_interval=61)
            await beside.enter_async_context(other)
            await peers(persistence, there=True)
            assert await asked() == [1000] * 2
        await peers(persistence, there=False)
        assert await asked() == [ALONE[version]] * 2


async def test_who_is_sent_away_and_who_waits_for_nothing_come_back_when_a_restart_is_over(
    tmp_store: str,
) -> None:
    async def endless(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.watch()

    app = Scripted(endless=endless, GET=endless)
    async with persisted(app, tmp_store) as (port, persistence), AsyncExitStack() as beside:
        await beside.enter_async_context(Persistence(url=tmp_store, purge_interval=61))
        await peers(persistence, there=True)
        session = await RawSession.open(port)
        call, idle = await session.call("endless"), await session.get()
        await asyncio.gather(call.take(1), idle.take(1))
        (await access_to(persistence).context()).drain.begin()
        for response in (call, idle):
            frames = [frame async for frame in response.frames()]
            assert frames[-1].retry == 3000
