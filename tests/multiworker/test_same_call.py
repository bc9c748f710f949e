"""Calls that are handed back, and calls with a key, are one call on every worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from mcp_persist_middleware.persistence import access_to
from tests.interaction.test_hand_back import Held, Listing, answer_of, text_of
from tests.support.scripted import persisted, until
from tests.support.session import HANDSHAKE, MODERN, RawSession
from tests.support.stores import WITH_AND_WITHOUT_REDIS, Store

_ANN = {"authorization": "Bearer ann"}


@asynccontextmanager
async def workers(app: Any, store: Store, **settings: Any) -> AsyncIterator[tuple[int, int]]:
    """Two of them, of one application each that share their tools."""
    async with AsyncExitStack() as stack:
        made = []
        for number in range(2):
            # A machine under load makes a store slow, and not away.
            patient = {"store_timeout": 20, "lease_seconds": 30, "retry_ms": 1000 + number}
            given = store.settings | settings | patient
            made.append(await stack.enter_async_context(persisted(app, **given)))
        (one, of_one), (two, of_two) = made
        for each in (of_one, of_two):
            member = (await access_to(each).context()).member
            await until(lambda member=member: member.peers.has_peers(member.name))
        yield one, two


@WITH_AND_WITHOUT_REDIS
async def test_a_session_at_home_elsewhere_is_handed_its_call_back_and_its_result(
    store: Store,
) -> None:
    app = Listing(slow=(tool := Held(as_json="redis" in store.name)))
    async with workers(app, store, hand_back=0.4, prime_after=0.2) as (one, two):
        session = await RawSession.open(one, HANDSHAKE, extra=_ANN)
        session.port = two
        assert "is still running" in await text_of(await session.call("slow"))
        session.port = one
        assert "is still running" in await text_of(await session.call("slow"))
        session.port = two
        third = asyncio.create_task(session.call("slow"))
        await asyncio.sleep(0.1)
        tool.done.set()
        assert await text_of(await third) == "run 1"
        assert tool.runs == 1


@WITH_AND_WITHOUT_REDIS
async def test_without_sessions_the_next_worker_has_the_result(store: Store) -> None:
    quick = Held()
    quick.done.set()
    app = Listing(slow=(tool := Held()), quick=quick)

    async def busy(session: RawSession) -> None:
        """What the other worker knows of its caller's jobs is never older than it may be."""
        while True:
            await text_of(await session.call("quick"))
            await asyncio.sleep(0.02)

    async with workers(app, store, hand_back=0.3) as (one, two):
        first, second = (RawSession(port, MODERN, extra=_ANN) for port in (one, two))
        pulse = asyncio.create_task(busy(RawSession(two, MODERN, extra=_ANN)))
        await until(lambda: quick.runs > 2)
        try:
            assert "half way" in await text_of(await first.call("slow"))
            assert "half way" in await text_of(await second.call("slow"))
        finally:
            pulse.cancel()
        tool.done.set()
        assert await text_of(await second.call("slow")) == "run 1"
        assert tool.runs == 1


async def test_of_calls_with_one_key_on_several_workers_one_runs(store: Store) -> None:
    app = Listing(slow=(tool := Held()))
    async with workers(app, store, idempotency=True) as (one, two):
        extra = _ANN | {"idempotency-key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
        sessions = [RawSession(port, MODERN, extra=extra) for port in (one, two) * 3]
        calls = [asyncio.create_task(each.call("slow")) for each in sessions]
        await until(lambda: tool.runs)
        await asyncio.sleep(0.3)
        tool.done.set()
        for each in calls:
            answer = await answer_of(await each)
            assert answer["result"]["content"][0]["text"] == "run 1"
        assert tool.runs == 1
