"""What a log may tell: nothing of ours that is secret, at whatever level and by whomever."""

import logging
from dataclasses import replace

import pytest
from sqlalchemy import make_url

from mcp_persist_middleware import Persistence, PersistMiddleware
from mcp_persist_middleware.persistence import access_to
from tests.support.scripted import Call, Scripted, serving
from tests.support.session import RawSession
from tests.support.stores import STORES, Store

TOKEN, PAYLOAD, WORD, SIGNED = "t0ken-of-ann", "payl0ad", "hunter2", "signature=s1gned"


async def told(call: Call) -> None:
    """Two events and the answer, all of which are the client's alone."""
    await call.head()
    await call.progress(1, PAYLOAD)
    await call.result(PAYLOAD)


async def endless(call: Call) -> None:
    """One event, and then nothing."""
    await call.head()
    await call.progress(1, PAYLOAD)
    await call.watch()


class Subscribing(Scripted):
    """Agrees to subscriptions as well."""

    async def _answer(self, call: Call) -> None:
        if call.request.get("method") == "resources/subscribe":
            await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": {}})
        else:
            await super()._answer(call)


@pytest.fixture
def guarded(store: Store) -> Store:
    """The store, with a password where it takes one."""
    if store.name not in STORES:
        pytest.skip("its driver is its author's, or another's here")
    url = make_url(store.url)
    if url.username:
        url = url.set(password=WORD)
    given = store.settings | {"url": url.render_as_string(hide_password=False)}
    return replace(store, settings=given)


async def test_no_log_tells_a_payload_a_credential_or_a_session_at_any_level(
    guarded: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    # It has a level of its own.
    caplog.set_level(logging.DEBUG, "sqlalchemy")
    app = Subscribing(told=told, endless=endless)
    one, other = (
        Persistence(**guarded.settings, ttl=ttl, drain_seconds=0.1) for ttl in (100.0, 101.0)
    )
    serve = [serving(PersistMiddleware(app, persistence=each)) for each in (one, other)]
    async with serve[0] as port, serve[1] as elsewhere:
        session = await RawSession.open(port, extra={"authorization": f"Bearer {TOKEN}"})
        uri = {"uri": f"https://files.example/one?{SIGNED}"}
        await (await session.post("resources/subscribe", uri)).body()
        at_both = [session, replace(session, port=elsewhere)]
        for each in at_both:
            frames = await (await each.call("told", secret=PAYLOAD)).take(2)
            assert [bool(frame.id) for frame in frames] == [True, True]
            again = [frame async for frame in (await each.get(frames[0].id)).frames() if frame.data]
            assert PAYLOAD in again[0].data
        left = await session.call("endless")
        await left.take(1)
        context = await access_to(one).context()
        assert await context.log.open_streams_of(context.member.name, 10), (
            "as whoever ends them reads them"
        )
        left.close()
        assert await session.delete() == 200
    names = {record.name for record in caplog.records}
    assert "sqlalchemy.engine.Engine.mcp_persist" in names, "it is heard"
    for secret in (TOKEN, PAYLOAD, WORD, SIGNED, session.session_id or "?"):
        told_by = {
            (record.name, record.levelname)
            for record in caplog.records
            if secret in record.getMessage() or secret in str(record.exc_info)
        }
        assert told_by == set(), f"{secret} is told"
