"""G7: what a callable names as a request's namespace keeps tenants of one application apart."""

import asyncio
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from tests.guarantees.test_g6_sessions_live_on import value
from tests.guarantees.test_g7_no_leaks import UNKNOWN, asked, stream_of, two
from tests.multiworker.stateful_app import tenant
from tests.support.scripted import Scripted, persisted
from tests.support.session import RawSession
from tests.support.stateful import Stateful

ANN, BOB = {"x-tenant": "ann"}, {"x-tenant": "bob"}


def as_tenant(session: RawSession, extra: dict[str, str]) -> RawSession:
    """The same session as somebody else would name it."""
    return RawSession(session.port, session_id=session.session_id, extra=extra)


async def test_a_cursor_of_another_namespace_is_an_unknown_one(store: str) -> None:
    async with persisted(Scripted(two=two), store, store_timeout=1.0, namespace=tenant) as (
        port,
        _,
    ):
        ann = await RawSession.open(port, extra=ANN)
        cursor = await stream_of(ann)
        thief = as_tenant(ann, BOB)
        assert await asked(thief, cursor) == await asked(thief, UNKNOWN)
        assert "secret result" in (await asked(ann, cursor))[2]


async def test_a_session_of_another_namespace_is_an_unknown_one_and_stays_untouched(
    store: str,
) -> None:
    app = Stateful()
    async with persisted(app, store, namespace=tenant) as (port, _):
        ann = await RawSession.open(port, extra=ANN)
        thief = as_tenant(ann, BOB)
        assert await value(ann) == 1
        assert await value(thief) == 404
        assert (await thief.get()).status == 404
        assert await thief.delete() == 404
        assert await value(ann) == 2
    async with persisted(Stateful(), store, namespace=tenant) as (port, _):
        ann.port = thief.port = port
        assert await value(thief) == 404
        assert await value(ann) == 1, "it came back for its own tenant"
        assert await value(thief) == 404


async def test_a_session_that_was_deleted_in_one_namespace_lives_in_another(store: str) -> None:
    class Fixed(Stateful):
        """Gives every client the same id, as no server should."""

        async def _initialize(self, message: Any, send: Any) -> None:
            self._ids = iter([1])
            await super()._initialize(message, send)

    async with persisted(Fixed(), store, namespace=tenant) as (port, _):
        ann = await RawSession.open(port, extra=ANN)
        bob = await RawSession.open(port, extra=BOB)
        assert ann.session_id == bob.session_id
        assert await ann.delete() == 200
    async with persisted(Fixed(), store, namespace=tenant) as (port, _):
        ann.port = bob.port = port
        assert await value(ann) == 404
        assert await value(bob) == 1


@pytest.mark.parametrize("name", ["", None, 7, "x" * 256, "a\0b"])
async def test_what_is_no_name_serves_nobody(store: str, name: Any) -> None:
    app = Scripted(two=two)
    async with persisted(app, store, namespace=lambda _: name) as (port, _):
        with pytest.raises(AssertionError):
            await RawSession.open(port)
        assert not app.requests


async def test_the_callable_is_asked_only_for_requests_of_ours(store: str) -> None:
    seen: list[str] = []

    def named(connection: HTTPConnection) -> str:
        seen.append(connection.url.path)
        return "n"

    async with persisted(Scripted(two=two), store, namespace=named) as (port, _):
        session = await RawSession.open(port)
        before = len(seen)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /other HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await reader.read()
        writer.close()
        assert len(seen) == before
        await stream_of(session)
        assert len(seen) == before + 1, "once for each request"
