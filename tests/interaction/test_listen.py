"""A `subscriptions/listen` of 2026-07-28 on one worker: kept alive, ended in order, else bare."""

import asyncio
import json
from typing import Any

import pytest

from mcp_persist_middleware.persistence import access_to
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import MODERN, RawSession
from tests.support.sse_client import Response

pytestmark = pytest.mark.timeout(60)
_ACK = "notifications/subscriptions/acknowledged"


class Subscribing(Scripted):
    """Acknowledges what it is asked for, and then does as the test says."""

    def __init__(self, then: Any) -> None:
        super().__init__()
        self.then = then

    async def _answer(self, call: Call) -> None:
        if call.request.get("method") != "subscriptions/listen":
            await super()._answer(call)
            return
        self.calls.append(call)
        await self.then(call)


async def acknowledge(call: Call) -> None:
    await call.head()
    params = {"notifications": call.request["params"]["notifications"], "_meta": {}}
    await call.emit({"method": _ACK, "params": params})


async def listen(port: int) -> Response:
    session, asked = RawSession(port, MODERN), {"notifications": {"toolsListChanged": True}}
    return await session.post("subscriptions/listen", asked, request_id="l1")


async def test_keep_alives_come_between_the_frames_of_a_listen_and_never_in_one(
    tmp_store: str,
) -> None:
    async def halting(call: Call) -> None:
        await acknowledge(call)
        frame = b'data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\r\n\r\n'
        for part in (frame[:20], frame[20:50], frame[50:]):
            await asyncio.sleep(0.25)
            await call._send({"type": "http.response.body", "body": part, "more_body": True})
        await call.watch()

    app = Subscribing(halting)
    async with persisted(app, tmp_store, ping_seconds=0.1, missed_hints=0) as (port, _):
        response = await listen(port)
        frames = []
        async for frame in response.frames():
            frames.append(frame)
            if sum(bool(each.data) for each in frames) == 2:
                break
        comments = [frame.comment for frame in frames if frame.comment]
        assert len(comments) >= 4
        assert frames[-1].message["method"] == "notifications/tools/list_changed"
        assert not any(frame.id for frame in frames)
        response.reset()
        # Its client has left for good, and the application hears of that at once.
        await until(app.calls[0].gone.is_set, 2)


@pytest.mark.parametrize("how", ["drained", "cancelled"])
async def test_a_listen_ends_with_its_result_when_the_worker_stops(
    tmp_store: str, how: str
) -> None:
    async def going_on(call: Call) -> None:
        await acknowledge(call)
        await call.watch()

    app = Subscribing(going_on)
    async with persisted(app, tmp_store) as (port, persistence):
        response = await listen(port)
        await response.take(1)
        if how == "drained":
            (await access_to(persistence).parts()).exchanges.drain.begin()
        rest = asyncio.create_task(response.take(2))
    (last,) = await rest
    meta = {"io.modelcontextprotocol/subscriptionId": "l1"}
    result = {"resultType": "complete", "_meta": meta}
    assert last.message == {"jsonrpc": "2.0", "id": "l1", "result": result}


async def test_a_refusal_and_an_error_reach_the_client_as_they_are(tmp_store: str) -> None:
    error = {"jsonrpc": "2.0", "id": "l1", "error": {"code": -32601, "message": "no"}}

    async def refusing(call: Call) -> None:
        await call.json(404, error)

    async with persisted(Subscribing(refusing), tmp_store) as (port, _):
        response = await listen(port)
        assert response.status == 404
        assert json.loads(await response.body()) == error
        response.close()


async def test_what_the_application_ends_is_ended_and_what_it_raises_is_its_own(
    tmp_store: str,
) -> None:
    async def ending(call: Call) -> None:
        await acknowledge(call)
        await call.result()

    async def raising(call: Call) -> None:
        raise ValueError("mine")

    app = Subscribing(ending)
    async with persisted(app, tmp_store) as (port, _):
        response = await listen(port)
        assert [frame.is_response for frame in await response.take(5)] == [False, True]
        app.then = raising
        assert (await listen(port)).status == 500
