"""G7: a stream that began before the application had named its user belongs to that user, and until
then to whoever has the same credentials."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.authentication import SimpleUser

from mcp_persist_middleware.persistence import access_to
from tests.faults.workers import Store
from tests.guarantees.test_g7_no_leaks import UNKNOWN, asked
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession

PERSON = {"ann-1": "ann", "ann-2": "ann", "bob-1": "bob"}
SETTINGS: dict[str, Any] = {"prime_after": 0.05, "store_timeout": 0.3}


class Slow(Scripted):
    """Names a user by the token, or as the gateway says; a tool's caller when the test says so."""

    def __init__(self) -> None:
        super().__init__(late=self.late)
        self.named, self.go_on = asyncio.Event(), asyncio.Event()
        self.known = 0

    async def _answer(self, call: Call) -> None:
        if call.request["method"] != "tools/call":
            self.name(call.scope)
        await super()._answer(call)

    def name(self, scope: Any) -> None:
        headers = dict(scope["headers"])
        name = headers.get(b"x-our-person", headers[b"authorization"]).decode()
        scope["user"] = SimpleUser(PERSON.get(name, name))

    async def late(self, call: Call) -> None:
        await self.named.wait()
        self.name(call.scope)
        await call.head()
        self.known += 1
        await self.go_on.wait()
        await call.result("secret result")


async def begun(port: int, **extra: str) -> tuple[RawSession, str]:
    """A caller who was cut while nobody had named it, and the id that it holds."""
    session = await RawSession.open(port, extra=extra)
    response = await session.call("late")
    first = await anext(response.frames())
    response.reset()
    assert first.id is not None
    return session, first.id


def as_(session: RawSession, **extra: str) -> RawSession:
    return RawSession(session.port, session_id=session.session_id, extra=extra)


@pytest.mark.parametrize("when", ["before", "after", "at the end"])
async def test_a_call_that_began_before_its_user_was_named_is_resumed_by_that_user(
    tmp_store: str, when: str
) -> None:
    app = Slow()
    async with persisted(app, tmp_store, **SETTINGS) as (port, persistence):
        session, cursor = await begun(port, authorization="ann-1")
        context = await access_to(persistence).context()
        if when != "before":
            app.named.set()
            await until(lambda: app.known)
        if when == "at the end":
            app.go_on.set()
            await until(lambda: not context.writer.live)
        bob = as_(session, authorization="bob-1")
        assert await asked(bob, cursor) == await asked(bob, UNKNOWN)
        replay = await session.get(cursor)
        app.named.set()
        await until(lambda: app.known)
        app.go_on.set()
        (answer,) = await replay.take(1)
        assert "secret result" in str(answer.message)
        # It is the person's now, whatever token that person has.
        assert "secret result" in (await asked(as_(session, authorization="ann-2"), cursor))[2]
        assert await asked(bob, cursor) == await asked(bob, UNKNOWN)


async def test_once_the_user_is_named_the_same_credentials_are_not_enough(
    store: str,
) -> None:
    app = Slow()
    gateway = {"authorization": "gateway"}
    async with persisted(app, store, **SETTINGS) as (port, persistence):
        ann, cursor = await begun(port, **gateway, **{"x-our-person": "ann"})
        bob = as_(ann, **gateway, **{"x-our-person": "bob"})
        app.named.set()
        await until(lambda: app.known)
        assert await asked(bob, cursor) == await asked(bob, UNKNOWN)
        app.go_on.set()
        context = await access_to(persistence).context()
        await until(lambda: not context.writer.live)
        # What only the store knows is the same.
        assert await asked(bob, cursor) == await asked(bob, UNKNOWN)
        assert "secret result" in (await asked(ann, cursor))[2]


async def test_a_call_whose_user_was_never_named_is_the_callers_with_the_same_credentials(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.db"
    app = Slow()
    async with persisted(app, f"sqlite+aiosqlite:///{path}", **SETTINGS) as (port, _):
        ann, cursor = await begun(port, authorization="ann-1")
        await until(lambda: Store(path).rows("SELECT id FROM mcp_stream"))
    async with persisted(Slow(), f"sqlite+aiosqlite:///{path}", **SETTINGS) as (port, _):
        ann.port = port
        bob = as_(ann, authorization="bob-1")
        assert await asked(bob, cursor) == await asked(bob, UNKNOWN)
        assert "Interrupted" in (await asked(ann, cursor))[2]
