"""G10: a client that never closes what it listens on, or leaves calls behind, crowds out none but
its own."""

import asyncio

from mcp_persist_middleware.persistence import access_to
from tests.interaction.test_listen import Subscribing, acknowledge
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import MODERN, RawSession
from tests.support.sse_client import Response

_ANN, _BOB = {"authorization": "Bearer ann"}, {"authorization": "Bearer bob"}


async def quiet(call: Call) -> None:
    await call.head()
    await call.watch()


async def ended(response: Response) -> int | None:
    """When the client of a connection that ended in order is asked back."""
    retry = None
    async for frame in response.frames():
        retry = frame.retry if frame.retry is not None else retry
    return retry


async def test_of_one_callers_connections_that_wait_the_oldest_makes_room(tmp_store: str) -> None:
    async with persisted(Scripted(GET=quiet), tmp_store, max_listeners=2) as (port, opened):
        crowd = (await access_to(opened).context()).crowd._waiting
        other = await (await RawSession.open(port, extra=_BOB)).get()
        mine: list[Response] = []
        for number in range(1, 4):
            # Each in a session of its own, as of a client that makes one for each message.
            mine.append(await (await RawSession.open(port, extra=_ANN)).get())
            await until(lambda n=number: sum(map(len, crowd.values())) == 1 + min(n, 2))
        reading = [asyncio.create_task(ended(each)) for each in (*mine, other)]
        assert await asyncio.wait_for(asyncio.shield(reading[0]), 5) == 3000
        assert not any(task.done() for task in reading[1:])
        for each in (*mine, other):
            each.reset()
        await asyncio.wait(reading)
        await until(lambda: not crowd)


async def test_of_one_callers_listens_the_oldest_ends_with_its_result(tmp_store: str) -> None:
    async def going_on(call: Call) -> None:
        await acknowledge(call)
        await call.watch()

    asked = {"notifications": {"toolsListChanged": True}}
    async with persisted(Subscribing(going_on), tmp_store, max_listeners=2) as (port, _):
        listening: list[Response] = []
        for number, whose in enumerate([_BOB, _ANN, _ANN, _ANN]):
            session = RawSession(port, MODERN, extra=whose)
            response = await session.post("subscriptions/listen", asked, request_id=f"l{number}")
            assert len(await response.take(1)) == 1
            listening.append(response)
        reading = [asyncio.create_task(each.take(1)) for each in listening]
        (last,) = await asyncio.wait_for(asyncio.shield(reading[1]), 5)
        assert (last.message["id"], last.message["result"]["resultType"]) == ("l1", "complete")
        assert not any(reading[n].done() for n in (0, 2, 3))
        for each in listening:
            each.reset()
        await asyncio.wait(reading)


async def test_of_one_callers_calls_without_a_client_the_newest_end(tmp_store: str) -> None:
    async def wait(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.watch()

    app = Scripted(wait=wait)
    async with persisted(app, tmp_store, max_detached_of_one=2) as (port, opened):
        context = await access_to(opened).context()
        ann, bob = [await RawSession.open(port, extra=each) for each in (_ANN, _BOB)]
        for number, session in enumerate([ann, bob, ann, ann], 1):
            response = await session.call("wait")
            await response.take(1)
            response.reset()
            await until(lambda n=number: len(context.detached) == min(n, 3))
        await until(app.calls[3].gone.is_set)
        assert not any(call.gone.is_set() for call in app.calls[:3])
