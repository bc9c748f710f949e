"""G6: a client that never says the id of its session again is served in it all the same, where that
is wished."""

from mcp_persist_middleware.ops.stores import inspected
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.inspected import Wanted
from tests.guarantees.test_g6_sessions_live_on import value
from tests.support.scripted import persisted, until
from tests.support.session import RawSession
from tests.support.stateful import Stateful

_ANN, _BOB = {"authorization": "Bearer ann"}, {"authorization": "Bearer bob"}
_FALLBACK = {"session_fallback": "principal"}


async def forgetful(port: int, extra: dict[str, str]) -> RawSession:
    """A client that has begun a session and has no id of it."""
    session = RawSession(port, extra=extra)
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
    response = await session.post("initialize", params)
    assert response.status == 200
    await response.body()
    response.close()
    assert await session.notify("notifications/initialized") == 202
    return session


async def test_it_is_served_in_its_principals_latest_session(tmp_store: str) -> None:
    async with persisted(Stateful(), tmp_store, **_FALLBACK) as (port, _):
        ann, bob = await forgetful(port, _ANN), await forgetful(port, _BOB)
        assert [await value(ann), await value(ann), await value(bob)] == [1, 2, 1]
        # Another session of the same caller is the latest from now on.
        again = await forgetful(port, _ANN)
        assert [await value(again), await value(ann), await value(bob)] == [1, 2, 2]


async def test_nobody_in_particular_has_none_and_a_deleted_one_is_none(tmp_store: str) -> None:
    async with persisted(Stateful(), tmp_store, **_FALLBACK) as (port, _):
        named = await RawSession.open(port, extra=_ANN)
        assert await value(named) == 1
        nobody = RawSession(port)
        response = await nobody.call("count")
        assert response.status in (400, 404)
        response.close()
        assert await named.delete() == 200
        response = await RawSession(port, extra=_ANN).call("count")
        assert response.status in (400, 404)
        response.close()


async def test_on_another_worker_it_is_the_same_session(tmp_store: str) -> None:
    async with (
        persisted(Stateful(), tmp_store, **_FALLBACK) as (one, of_one),
        persisted(Stateful(), tmp_store, retry_ms=7, **_FALLBACK) as (two, of_two),
    ):
        for each in (of_one, of_two):
            member = (await access_to(each).context()).member
            await until(lambda member=member: member.peers.has_peers(member.name))
        session = await forgetful(one, _ANN)
        assert await value(session) == 1
        session.port = two
        assert await value(session) == 2


async def test_it_is_there_after_a_restart(tmp_store: str) -> None:
    async with persisted(Stateful(), tmp_store, **_FALLBACK) as (port, _):
        await forgetful(port, _ANN)
        # What is noted beside the sessions is none of them.
        async with inspected(Settings.load({"url": tmp_store})) as inspection:
            listed = await inspection.sessions(Wanted(), await inspection.now(), 10)
            counted = await inspection.counts()
        assert [record.key.id for record in listed] == ["session-1"]
        assert [count.sessions for count in counted] == [1]
    async with persisted(Stateful(), tmp_store, **_FALLBACK) as (port, _):
        assert await value(RawSession(port, extra=_ANN)) == 1


async def test_without_the_setting_the_application_refuses(tmp_store: str) -> None:
    async with persisted(Stateful(), tmp_store) as (port, _):
        await RawSession.open(port, extra=_ANN)
        response = await RawSession(port, extra=_ANN).call("count")
        assert response.status in (400, 404)
        response.close()
