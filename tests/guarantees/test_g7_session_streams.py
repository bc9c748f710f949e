"""G7 for a session's GET stream: whoever is not its owner, or is refused, does not join it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.middleware.authentication import AuthenticationMiddleware

from mcp_persist_middleware import PersistMiddleware
from tests.guarantees.test_g7_no_leaks import Tokens
from tests.support.scripted import Call, Message, Receive, Scripted, Send, persisted, serving
from tests.support.session import RawSession
from tests.support.sse_client import Response

SECRET = "for ann alone"


class Newsdesk(Scripted):
    """One event stream for each session, which says a secret when it is told to; every other GET
    of a session is answered with 409, as the SDK does. Refuses whom it is told to refuse."""

    def __init__(self) -> None:
        super().__init__(GET=self._stream)
        self.say = asyncio.Event()
        self.refused = ""
        self._open = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        token = dict(scope.get("headers", [])).get(b"authorization", b"").decode()
        self.allow = lambda _: not (self.refused and token.endswith(self.refused))
        await super().__call__(scope, receive, send)

    async def _stream(self, call: Call) -> None:
        if self._open:
            await call.json(409, {"error": "one stream for each session"})
            return
        self._open = True
        await call.head()
        await self.say.wait()
        await call.progress(1, SECRET)
        await call.watch()


@asynccontextmanager
async def two_workers(store: str) -> AsyncIterator[tuple[list[Newsdesk], list[int]]]:
    """Two workers on one store: settings that differ in one value make a worker of its own."""
    desks = [Newsdesk(), Newsdesk()]
    apps: list[Any] = [
        PersistMiddleware(
            AuthenticationMiddleware(newsdesk, backend=Tokens()),
            url=store,
            retry_ms=1000 + number,
            drain_seconds=0.1,
        )
        for number, newsdesk in enumerate(desks)
    ]
    async with serving(apps[0]) as one, serving(apps[1]) as two:
        yield desks, [one, two]


async def heard(response: Response) -> str:
    """What arrives within a moment; a stream that is open and silent says nothing."""
    found = b""
    try:
        async for piece in response.pieces(0.5):
            found += piece
    except (TimeoutError, OSError, asyncio.IncompleteReadError):
        pass
    finally:
        response.reset()
    return found.decode()


@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize("other", ["app.bob.1", "app..1", ""])
async def test_the_stream_of_a_session_is_joined_by_nobody_else(
    store: str, worker: int, other: str
) -> None:
    async with two_workers(store) as (desks, ports):
        ann = await RawSession.open(ports[0], extra={"authorization": "Bearer app.ann.1"})
        mine = await ann.get()
        thief = RawSession(ports[worker], session_id=ann.session_id)
        thief.extra = {"authorization": f"Bearer {other}"} if other else {}
        theirs = await thief.get()
        desks[0].say.set()
        assert SECRET in (await mine.take(1))[0].data
        assert SECRET not in await heard(theirs)
        # And the owner does, from either worker.
        ann.port = ports[worker]
        ann.extra = {"authorization": "Bearer app.ann.2"}
        again = await ann.get()
        assert again.status == 200
        again.reset()
        mine.reset()


@pytest.mark.parametrize("worker", [0, 1])
async def test_an_owner_whom_the_application_refuses_now_does_not_join_it_either(
    store: str, worker: int
) -> None:
    async with two_workers(store) as (desks, ports):
        ann = await RawSession.open(ports[0], extra={"authorization": "Bearer app.ann.1"})
        mine = await ann.get()
        for newsdesk in desks:
            newsdesk.refused = "ann.2"
        ann.port = ports[worker]
        ann.extra = {"authorization": "Bearer app.ann.2"}
        refused = await ann.get()
        assert refused.status == 401
        desks[0].say.set()
        assert SECRET in (await mine.take(1))[0].data
        assert SECRET not in await heard(refused)
        mine.reset()


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_cursor_leads_into_no_later_stream_of_somebody_else(
    store: str, *, restarted: bool
) -> None:
    """An application that does not bind its sessions to their users lets bob into ann's."""
    said: list[str] = []

    async def stream(call: Call) -> None:
        await call.head()
        text = dict(call.scope["headers"])[b"x-api-key"].decode()
        await call.progress(1, f"hello {text}")
        said.append(text)
        if text == "bob":
            await call.end()
        else:
            await call.watch()

    async with persisted(Scripted(GET=stream), store) as (port, _):
        ann = await RawSession.open(port, extra={"x-api-key": "ann"})
        bob = RawSession(port, session_id=ann.session_id, extra={"x-api-key": "bob"})
        (first,) = await (await bob.get()).take(1)
        assert first.message["params"]["message"] == "hello bob"
        if not restarted:
            mine = await ann.get()
            assert (await mine.take(1))[0].message["params"]["message"] == "hello ann"
            assert "ann" not in await heard(await bob.get(first.id))
            mine.reset()
    if restarted:
        async with persisted(Scripted(GET=stream), store) as (port, _):
            ann.port = bob.port = port
            mine = await ann.get()
            assert (await mine.take(1))[0].message["params"]["message"] == "hello ann"
            assert "ann" not in await heard(await bob.get(first.id))
            mine.reset()
