"""What a program follows of a server's calls, through the public interface."""

import asyncio

import pytest

from mcp_persist_middleware import (
    Feed,
    FeedError,
    FeedEvent,
    Persistence,
)
from mcp_persist_middleware.errors import SwitchedOffError
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.store import EventKind
from tests.interaction.test_lease import LONG, declared_dead, renewed, works
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession


async def two(call: Call) -> None:
    """One event, then the answer."""
    await call.head()
    await call.progress(1)
    await call.result()


async def answers(feed: Feed, count: int) -> list[FeedEvent]:
    """The next answers of calls."""
    found: list[FeedEvent] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            item = await anext(feed)
            assert isinstance(item, FeedEvent)
            if item.kind is EventKind.RESPONSE and item.message["id"] != 0:
                found.append(item)
    return found


async def test_a_program_follows_what_a_server_answers(tmp_store: str) -> None:
    async with persisted(Scripted(two=two), tmp_store) as (port, persistence):
        session = await RawSession.open(port)
        async with persistence.subscribe(session=session.session_id, after="start") as feed:
            frames = [frame async for frame in (await session.call("two")).frames()]
            event = (await answers(feed, 1))[-1]
            while event.message != frames[-1].message:
                (event,) = await answers(feed, 1)
        assert event.session == session.session_id
        assert frames[-1].id is not None
        assert frames[-1].id.startswith(event.stream)
        followed = persistence.subscribe(stream=frames[-1].id, after="start")
        assert [item.sequence async for item in followed if isinstance(item, FeedEvent)] == [1, 2]


async def test_a_feed_outlives_the_worker_that_it_began_with(tmp_store: str) -> None:
    async with persisted(Scripted(two=two), tmp_store, **LONG) as (port, persistence):
        lost = await access_to(persistence).context()
        async with persistence.subscribe() as feed:
            await works(port)
            await answers(feed, 1)
            await declared_dead(lost)
            coming = asyncio.create_task(answers(feed, 1))
            await renewed(persistence, lost)
            await works(port)
            assert len(await coming) == 1


async def test_a_feed_ends_with_what_made_it(tmp_store: str) -> None:
    persistence = Persistence(url=tmp_store)
    await persistence.start()
    feed = persistence.subscribe()
    waiting = asyncio.create_task(anext(feed, None))
    await until(lambda: feed.cursor != "now")
    await persistence.aclose()
    async with asyncio.timeout(20):
        assert await waiting is None


async def test_what_cannot_be_followed_is_said(tmp_store: str) -> None:
    async with Persistence(url=tmp_store) as persistence:
        for wrong in ({"stream": "x"}, {"session": ""}, {"stream": "A" * 22, "session": "s"}):
            with pytest.raises(FeedError, match="MPM-FEED-01"):
                persistence.subscribe(**wrong)
        with pytest.raises(FeedError, match="'block'"):
            persistence.subscribe(on_slow="never")  # type: ignore[arg-type]
        with pytest.raises(FeedError, match="'now'"):
            await persistence.subscribe(after="yesterday").begin()
    with pytest.raises(SwitchedOffError):
        await Persistence(url=tmp_store, enabled=False).subscribe().begin()
