"""Where the user opts in, a call whose worker was killed is run again, on its stream."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.faults.workers import numbers
from tests.multiworker.stateful_app import worker, workers
from tests.multiworker.test_relay import on, value
from tests.support.processes import ServerProcess, running
from tests.support.session import MODERN, RawSession
from tests.support.sse_client import Frame, Response
from tests.support.stores import WITH_AND_WITHOUT_REDIS, Store

pytestmark = pytest.mark.timeout(90)

AGAIN: dict[str, Any] = {
    "rerun": ["a"],
    "resume_rotate": None,
    "lease_seconds": 3,
    "store_timeout": 2.5,
}
"""The setting says yes to the call that is named "a"."""
PACE = {"delay": 0.1, "later": 0.4}
"""Seconds before each of two events, and before each of those behind them."""


async def rest(response: Response) -> list[Frame]:
    """All that still comes, down to the clean end."""
    return [frame async for frame in response.frames() if frame.data]


async def come_back(session: RawSession, cursor: str | None, most: int = 1 << 30) -> list[Frame]:
    """What a client reads that comes back as often as its stream ends, down to the answer, or as
    many events as it wants: a worker that has not noticed the death yet reads on, and sends its
    clients back then."""
    found: list[Frame] = []
    async with asyncio.timeout(30):
        while len(found) < most and not any(frame.is_response for frame in found):
            response = await session.get(cursor)
            async for frame in response.frames():
                cursor = frame.id or cursor
                found += [frame] if frame.data else []
                if len(found) == most:
                    response.reset()
                    break
    return found


def runs(servers: list[ServerProcess], name: str = "a") -> list[str]:
    """By whom a call was run, each time."""
    lines = [line for server in servers for line in server.log.splitlines()]
    return [line.split(" by ")[1] for line in lines if line.startswith(f"steps {name} ")]


def epochs(frames: list[Frame]) -> list[str]:
    """The epoch in the id of each event."""
    return [frame.id.split("-")[-3] for frame in frames if frame.id]


async def begun(session: RawSession, *, name: str = "a", n: int = 6) -> list[Frame]:
    """A call whose first events have been read. It goes on for longer than it takes a slow machine
    to kill its worker."""
    return await (await session.call("steps", name=name, n=n, **PACE)).take(2)


async def test_a_killed_call_goes_on_in_a_new_epoch_of_its_stream(
    tmp_path: Path, store: Store
) -> None:
    async with running(worker(tmp_path, "one", store=store, **AGAIN)) as one:
        session = await RawSession.open(one.port, extra={"authorization": "first"})
        seen = await begun(session)
        await one.kill()
        await one.start()
        session.extra = {"authorization": "first"}
        more = await come_back(session, seen[-1].id)
        assert runs([one]) == ["first", "first"]
        assert numbers(seen + more) == list(range(1, len(seen + more) + 1))
        assert [frame.progress for frame in more if not frame.is_response][-6:] == [*range(1, 7)]
        assert more[-1].message["result"] == {"value": 6}
        begins = next(n for n, frame in enumerate(more) if frame.comment == "run again")
        assert {frame.comment for frame in more[begins + 1 :]} == {None}
        assert epochs(more)[begins] != epochs(seen)[0]
        assert len(set(epochs(more[begins:]))) == 1
        # Whoever comes later reads the same.
        later = await rest(await session.get(seen[0].id))
        assert [frame.data for frame in later] == [frame.data for frame in (seen + more)[1:]]
        assert (await value(await session.call("tell")))["generation"] == 2
        assert not one.complaints


@WITH_AND_WITHOUT_REDIS
async def test_what_the_setting_does_not_name_is_not_run_again(
    tmp_path: Path, store: Store
) -> None:
    async with running(worker(tmp_path, "one", store=store, **AGAIN)) as one:
        session = await RawSession.open(one.port)
        seen = await begun(session, name="b")
        await one.kill()
        await one.start()
        more = await come_back(session, seen[-1].id)
        assert "not run again" in more[-1].message["error"]["message"]
        assert runs([one], "b") == ["nobody"]


@WITH_AND_WITHOUT_REDIS
async def test_the_request_is_kept_without_credentials_and_only_while_it_may_be_needed(
    tmp_path: Path,
    store: Store,
) -> None:
    sql = "SELECT request FROM mcp_stream WHERE request_ids != '[1]' ORDER BY id"
    async with running(worker(tmp_path, "one", store=store, **AGAIN)) as one:
        session = await RawSession.open(one.port, extra={"authorization": "open-sesame"})
        response = await session.call("steps", name="a", n=6, **PACE)
        await response.take(1)
        ((kept,),) = await store.rows(sql)
        assert b'"steps"' in kept
        assert b"open-sesame" not in kept
        assert session.session_id is not None
        assert session.session_id.encode() not in kept
        await rest(response)
        assert await store.rows(sql) == [(None,)]
    async with running(worker(tmp_path, "two", store=store)) as two:
        session = await RawSession.open(two.port)
        await begun(session)
        assert await store.rows(sql) == [(None,), (None,)]


@WITH_AND_WITHOUT_REDIS
async def test_of_clients_that_come_back_together_one_has_it_run_and_all_read_it(
    tmp_path: Path,
    store: Store,
) -> None:
    async with workers(tmp_path, 3, store=store, **AGAIN) as (one, two, three):
        session = await RawSession.open(one.port)
        seen = await begun(session)
        await one.kill()

        clients = [RawSession(s.port, session_id=session.session_id) for s in [two, three] * 4]
        found = await asyncio.gather(*(come_back(client, seen[-1].id) for client in clients))
        assert runs([one, two, three]) == ["nobody"] * 2
        for frames in found:
            assert numbers(frames) == numbers(found[0])
            assert numbers(seen + frames) == list(range(1, len(seen + frames) + 1))
            assert frames[-1].message["result"] == {"value": 6}
        assert not two.complaints
        assert not three.complaints


@WITH_AND_WITHOUT_REDIS
async def test_it_is_run_where_its_session_is(tmp_path: Path, store: Store) -> None:
    async with workers(tmp_path, 3, store=store, **AGAIN) as (one, two, three):
        session = await RawSession.open(one.port)
        seen = await begun(session)
        await one.kill()
        # Another call of the client brings the session back, at another worker.
        async with asyncio.timeout(15):
            while await value(await on(session, two).call("count")) != 1:
                await asyncio.sleep(0.1)
        more = await come_back(on(session, three), seen[-1].id)
        assert [runs([server]) for server in (one, two, three)] == [["nobody"], ["nobody"], []]
        assert numbers(seen + more) == list(range(1, len(seen + more) + 1))
        assert more[-1].message["result"] == {"value": 6}
        assert await value(await session.call("count")) == 3


@WITH_AND_WITHOUT_REDIS
async def test_a_third_run_elsewhere_repeats_nothing_of_the_second(
    tmp_path: Path, store: Store
) -> None:
    async with workers(tmp_path, 3, store=store, **AGAIN) as (one, two, three):
        session = await RawSession.open(one.port)
        seen = await begun(session)
        await one.kill()
        seen += await come_back(on(session, two), seen[-1].id, 3)
        await two.kill()
        # Another call of the client brings the session back, at the worker that is left.
        async with asyncio.timeout(15):
            while await value(await on(session, three).call("count")) != 1:
                await asyncio.sleep(0.1)
        await one.start()
        seen += await come_back(on(session, one), seen[-1].id)
        assert len(runs([one, two, three])) == 3
        assert len(runs([three])) == 1
        assert numbers(seen) == list(range(1, len(seen) + 1))
        assert seen[-1].message["result"] == {"value": 6}


@WITH_AND_WITHOUT_REDIS
async def test_a_client_that_reads_elsewhere_is_asked_to_come_back_for_it(
    tmp_path: Path, store: Store
) -> None:
    async with workers(tmp_path, 2, store=store, **AGAIN) as (one, two):
        session = await RawSession.open(one.port)
        seen = await begun(session)
        reader = await on(session, two).get(seen[-1].id)
        await reader.take(1)
        await one.kill()
        async with asyncio.timeout(12):
            rest_of_it = await rest(reader)
        assert not any(frame.is_response for frame in rest_of_it)
        more = await come_back(session, seen[-1].id)
        assert numbers(seen + more) == list(range(1, len(seen + more) + 1))
        assert more[-1].message["result"] == {"value": 6}


@WITH_AND_WITHOUT_REDIS
async def test_a_client_that_does_not_come_back_is_waited_for_and_then_answered(
    tmp_path: Path,
    store: Store,
) -> None:
    settings = {**AGAIN, "rerun_seconds": 4}
    async with workers(tmp_path, 2, store=store, **settings) as (one, two):
        session = await RawSession.open(one.port)
        seen = await begun(session, n=100)
        open_of = "SELECT worker, state FROM mcp_stream WHERE state = 0"
        ((name, _),) = await store.rows(open_of)
        last = []
        await one.kill()
        async with asyncio.timeout(30):
            while (name,) in await store.rows("SELECT id FROM mcp_worker"):
                last = await store.rows(open_of) or last
                await asyncio.sleep(0.05)
        assert last == [(name, 0)], "it was open for a while after the death"
        more = await rest(await on(session, two).get(seen[-1].id))
        assert "not run again" in more[-1].message["error"]["message"]
        assert runs([one, two]) == ["nobody"]


@WITH_AND_WITHOUT_REDIS
async def test_a_run_that_dies_too_may_be_run_once_more(tmp_path: Path, store: Store) -> None:
    async with running(worker(tmp_path, "one", store=store, **AGAIN)) as one:
        session = await RawSession.open(one.port)
        seen = await begun(session)
        for _ in range(2):
            await one.kill()
            await one.start()
            seen += await come_back(session, seen[-1].id, 3)
        seen += await come_back(session, seen[-1].id)
        assert len(runs([one])) == 3
        assert numbers(seen) == list(range(1, len(seen) + 1))
        assert [f.comment for f in seen if f.comment] == ["run again"] * 2
        assert seen[-1].message["result"] == {"value": 6}


@WITH_AND_WITHOUT_REDIS
async def test_without_a_session_it_is_run_again_as_well(tmp_path: Path, store: Store) -> None:
    async with running(worker(tmp_path, "one", store=store, **AGAIN)) as one:
        client = await RawSession.open(one.port, MODERN)
        seen = await begun(client)
        await one.kill()
        await one.start()
        more = await come_back(client, seen[-1].id)
        assert len(runs([one])) == 2
        assert numbers(seen + more) == list(range(1, len(seen + more) + 1))
        assert more[-1].message["result"] == {"value": 6}


@WITH_AND_WITHOUT_REDIS
async def test_a_caller_whom_the_application_refuses_has_nothing_run(
    tmp_path: Path, store: Store
) -> None:
    async with running(worker(tmp_path, "one", store=store, **AGAIN)) as one:
        session = await RawSession.open(one.port, extra={"authorization": "ann"})
        seen = await begun(session)
        await one.kill()
        await one.start()
        for credential, status in (("nobody", 401), ("busy", 503)):
            session.extra = {"authorization": credential}
            assert (await session.get(seen[-1].id)).status == status
        session.extra = {"authorization": "somebody else"}
        await rest(await session.get(seen[-1].id))
        assert runs([one]) == ["ann"]
        session.extra = {"authorization": "ann"}
        more = await come_back(session, seen[-1].id)
        assert runs([one]) == ["ann", "ann"]
        assert more[-1].message["result"] == {"value": 6}
