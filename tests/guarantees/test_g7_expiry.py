"""G7: a stream ends in order with the authorisation of whoever reads it."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import MODERN, RawSession, last_id
from tests.support.sse_client import Response

_SOON = 0.6


class Authenticated(Scripted):
    """Its authentication leaves a token in the scope, which ends when a header says so."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            told = dict(scope["headers"])
            ends = told.get(b"x-ends")
            token = SimpleNamespace(
                client_id="c", subject="ann", claims={}, expires_at=float(ends) if ends else None
            )
            scope["user"] = SimpleNamespace(is_authenticated=True, access_token=token)
        await super().__call__(scope, receive, send)

    async def _answer(self, call: Call) -> None:
        if call.request.get("method") == "subscriptions/listen":
            await call.head()
            await call.emit({"method": "notifications/subscriptions/acknowledged", "params": {}})
            await call.watch()
        else:
            await super()._answer(call)


async def quiet(call: Call) -> None:
    await call.head()
    await call.progress(1)
    await call.watch()


def ends_in(seconds: float) -> dict[str, str]:
    return {"x-ends": str(time.time() + seconds)}


async def end_of(response: Response) -> tuple[float, int | None]:
    """How long a stream goes on, and when its client is asked back."""
    began, retry = time.monotonic(), None
    async for frame in response.frames():
        retry = frame.retry if frame.retry is not None else retry
    return time.monotonic() - began, retry


async def test_a_session_stream_ends_in_order_with_the_token_of_its_reader(tmp_store: str) -> None:
    async with persisted(Authenticated(GET=quiet), tmp_store) as (port, _):
        session = await RawSession.open(port)
        unbounded = await session.get()
        assert (await unbounded.take(1))[0].progress == 1
        session.extra = ends_in(_SOON)
        ended, retry = await end_of(await session.get())
        assert ended < 5
        assert time.time() > float(session.extra["x-ends"]) - 0.1
        assert retry == 3000
        # It comes back with a token that is good, and goes on; the other one was left alone.
        session.extra = ends_in(60)
        again = await session.get()
        assert again.status == 200
        with pytest.raises(TimeoutError):
            await unbounded.take(1, timeout=0.2)
        for each in (again, unbounded):
            each.reset()


async def test_a_resumed_answer_ends_in_order_and_is_had_with_the_next_token(
    tmp_store: str,
) -> None:
    done = asyncio.Event()

    async def slow(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await done.wait()
        await call.result()

    settings = {"resume_rotate": None}
    async with persisted(Authenticated(slow=slow), tmp_store, **settings) as (port, _):
        session = await RawSession.open(port)
        first = await session.call("slow")
        cursor = last_id(await first.take(1))
        first.reset()
        session.extra = ends_in(_SOON)
        ended, _ = await end_of(await session.get(cursor))
        assert ended < 5
        session.extra = ends_in(60)
        done.set()
        assert (await (await session.get(cursor)).take(1))[0].is_response


async def test_a_token_that_has_ended_brings_nobody_back_in_a_loop(tmp_store: str) -> None:
    """The application lets it in all the same: its clock, or its leeway, is another."""
    async with persisted(Authenticated(GET=quiet), tmp_store) as (port, _):
        session = await RawSession.open(port, extra=ends_in(-1))
        response = await session.get()
        await response.take(1)
        with pytest.raises(TimeoutError):
            await response.take(1, timeout=0.5)
        response.reset()


async def test_the_setting_says_when_and_one_that_raises_costs_nothing_else(
    tmp_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    def expires(connection: HTTPConnection) -> float | None:
        told = connection.headers.get("x-until", "")
        return time.time() + float(told) if told else None

    async with persisted(Scripted(GET=quiet), tmp_store, expires=expires) as (port, _):
        session = await RawSession.open(port, extra={"x-until": str(_SOON)})
        ended, _ = await end_of(await session.get())
        assert ended < 5
        session.extra = {"x-until": "soon"}
        response = await session.get()
        assert response.status == 200
        response.reset()
        await until(lambda: "MPM-APP-05" in caplog.text)


async def test_a_reader_of_another_worker_is_cut_by_its_own_token(tmp_store: str) -> None:
    app = Authenticated(GET=quiet)
    async with (
        persisted(app, tmp_store) as (home, _),
        persisted(app, tmp_store, retry_ms=7) as (
            other,
            _,
        ),
    ):
        session = await RawSession.open(home)
        await (await session.get()).take(1)
        session.port, session.extra = other, ends_in(_SOON)
        ended, retry = await end_of(await session.get())
        assert ended < 5
        assert retry == 7


async def test_a_listen_ends_with_the_protocols_own_result(tmp_store: str) -> None:
    async with persisted(Authenticated(), tmp_store) as (port, _):
        session = RawSession(port, MODERN, extra=ends_in(_SOON))
        params = {"notifications": {"toolsListChanged": True}}
        response = await session.post("subscriptions/listen", params)
        frames = [frame async for frame in response.frames(timeout=5)]
        assert frames[-1].is_response
        assert "result" in frames[-1].message
