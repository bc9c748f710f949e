"""What is told of an exchange when it is over: once, wherever it ran and however it ended."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcp_persist_middleware import Persistence
from mcp_persist_middleware.log.membership.lease import Lease
from mcp_persist_middleware.log.membership.peers import PeerStatus
from mcp_persist_middleware.model import ExchangeOutcome, FinishedExchange
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.testing.contract.cases.jobs import job
from tests.guarantees.test_g10_sessions import two_workers
from tests.interaction.test_rerun import left_behind
from tests.multiworker.test_relay import value
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import MODERN, RawSession
from tests.support.sse_client import request
from tests.support.stateful import Stateful

SECRET = {"authorization": "Bearer ann"}
Told = list[FinishedExchange]


async def heard(persistence: Persistence) -> Told:
    """What is told from now on."""
    told: Told = []
    (await access_to(persistence).context()).reports.listen(told.append)
    return told


@contextlib.asynccontextmanager
async def listening(
    url: str, version: str = "2025-11-25", **tools: Any
) -> AsyncIterator[tuple[RawSession, Told]]:
    """A session, and what is told of its calls."""
    async with persisted(Scripted(**tools), url, disconnect_grace=0.05) as (port, persistence):
        session = await RawSession.open(port, version, extra=SECRET)
        yield session, await heard(persistence)


async def one(told: Told) -> FinishedExchange:
    await until(lambda: told)
    (finished,) = told
    return finished


async def answer(session: RawSession, tool: str) -> bytes:
    response = await session.call(tool)
    body = await response.body()
    response.close()
    return body


async def test_an_answer_that_is_a_stream(tmp_store: str) -> None:
    async def slow(call: Call) -> None:
        await call.head()
        await asyncio.sleep(0.05)
        await call.progress(1)
        await asyncio.sleep(0.05)
        await call.result()

    before = time.time()
    async with listening(tmp_store, slow=slow) as (session, told):
        await answer(session, "slow")
        finished = await one(told)
    said = (finished.method, finished.name, finished.version, finished.outcome, finished.error_type)
    assert said == ("tools/call", "slow", "2025-11-25", ExchangeOutcome.OK, "")
    owner = finished.owner
    assert (owner.namespace, owner.path, owner.session) == ("default", "/mcp", session.session_id)
    assert owner.principal
    assert "ann" not in owner.principal
    assert before <= finished.began_at <= time.time()
    assert finished.first_after is not None
    assert 0.05 <= finished.first_after < finished.lasted - 0.04
    assert 100 < finished.bytes_in < finished.bytes_out < 1000
    assert finished.stream is not None


async def test_an_answer_that_passes_as_it_is(tmp_store: str) -> None:
    async def plain(call: Call) -> None:
        result = {"content": [], "isError": True}
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": result})

    async def away(call: Call) -> None:
        await call.json(503, "no")

    async with listening(tmp_store, plain=plain, away=away) as (session, told):
        body = await answer(session, "plain")
        finished = await one(told)
        assert finished.outcome is ExchangeOutcome.TOOL_ERROR
        assert (finished.name, finished.error_type) == ("plain", "tool_error")
        assert (finished.bytes_out, finished.stream) == (len(body), None)
        assert finished.owner.session == session.session_id
        principal = finished.owner.principal
        told.clear()
        await answer(session, "away")
        finished = await one(told)
        assert (finished.outcome, finished.error_type) == (ExchangeOutcome.ERROR, "503")
        assert finished.owner.principal == principal


async def test_an_error_of_the_application(tmp_store: str) -> None:
    async def wrong(call: Call) -> None:
        await call.head()
        await call.emit({"id": call.request["id"], "error": {"code": -32602, "message": "no"}})
        await call.end()

    async def early(call: Call) -> None:
        raise ZeroDivisionError

    async def late(call: Call) -> None:
        await call.head()
        await call.progress(1)
        raise LookupError

    async with listening(tmp_store, wrong=wrong, early=early, late=late) as (session, told):
        for tool in ("wrong", "early", "late"):
            await answer(session, tool)
        await until(lambda: len(told) == 3)
    assert [(each.outcome, each.error_type) for each in told] == [
        (ExchangeOutcome.ERROR, "-32602"),
        (ExchangeOutcome.ERROR, "ZeroDivisionError"),
        (ExchangeOutcome.INTERRUPTED, "LookupError"),
    ]


async def test_a_client_that_leaves_where_that_cancels(tmp_store: str) -> None:
    async def waits(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.watch()

    async with listening(tmp_store, MODERN, waits=waits) as (session, told):
        response = await session.call("waits")
        await response.take(1)
        response.close()
        finished = await one(told)
    assert (finished.outcome, finished.error_type) == (ExchangeOutcome.CANCELLED, "cancelled")


async def test_an_application_that_ends_without_an_answer(tmp_store: str) -> None:
    async def nothing(call: Call) -> None:
        await call.head()
        await call.end()

    async with listening(tmp_store, nothing=nothing) as (session, told):
        assert b"Interrupted" in await answer(session, "nothing")
        finished = await one(told)
    assert (finished.outcome, finished.error_type) == (ExchangeOutcome.INTERRUPTED, "-32000")


async def test_a_relayed_exchange_is_told_by_its_home_alone(tmp_store: str) -> None:
    async with two_workers(tmp_store, Stateful()) as (ports, both):
        session = await RawSession.open(ports[0])
        home, other = [await heard(each) for each in both]
        session.port = ports[1]
        assert await value(await session.call("count")) == 1
        assert (await one(home)).name == "count"
        assert other == []


@pytest.mark.parametrize(
    ("known", "called"),
    [
        ("its request", ("tools/call", "work", MODERN)),
        ("its job", ("tools/call", "slow", MODERN)),
        ("no more than its stream", ("", "", "")),
    ],
)
async def test_an_exchange_whose_worker_is_gone_is_told_by_whoever_ends_it(
    tmp_store: str, known: str, called: tuple[str, str, str]
) -> None:
    async with two_workers(tmp_store, Scripted()) as (ports, both):
        told = [await heard(each) for each in both]
        write, cursor = left_behind()
        assert write.create is not None
        log = (await access_to(both[0]).context()).log
        if known != "its request":
            write.create = dataclasses.replace(write.create, request=None)
        if known == "its job":
            assert log.jobs is not None
            await log.jobs.create(job(log, write.create), 10, 10)
        await log.append([write])
        session = RawSession(ports[0], MODERN)
        frames = await (await session.get(cursor)).body()
        assert b"Interrupted" in frames
        await until(lambda: any(told))
        (finished,) = [*told[0], *told[1]]
    assert (finished.outcome, finished.error_type) == (ExchangeOutcome.INTERRUPTED, "-32000")
    assert (finished.method, finished.name, finished.version) == called
    assert finished.stream == write.id


async def test_of_two_who_end_an_exchange_at_the_same_time_one_tells_of_it(tmp_store: str) -> None:
    async with two_workers(tmp_store, Scripted()) as (_, both):
        contexts = [await access_to(each).context() for each in both]
        told = [await heard(each) for each in both]
        # What is kept to be run again is left alone by whoever sweeps meanwhile.
        (write, _), seen = left_behind(), PeerStatus(gone=True, seen_at=None)
        assert write.create is not None
        await contexts[0].log.append([write])
        ending = [each.takeover.end(write.create, seen) for each in (*contexts, *contexts)]
        ended = await asyncio.gather(*ending)
        assert len({record.ended_at for record in ended if record is not None}) == 1
        await until(lambda: any(told))
    assert len([*told[0], *told[1]]) == 1


async def test_who_has_lost_its_lease_tells_nothing_of_what_another_ends(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def waits(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.watch()

    app = Scripted(waits=waits)
    async with persisted(app, tmp_store) as (port, persistence):
        session = await RawSession.open(port)
        context = await access_to(persistence).context()
        told = await heard(persistence)
        response = await session.call("waits")
        await response.take(1)
        with monkeypatch.context() as patch:
            patch.setattr(Lease, "is_held", property(lambda self: self is not context.member.lease))
            await context.cancel_exchanges(5)
        response.close()
    assert told == []


async def test_a_listener_that_raises_costs_nobody_else_anything(
    tmp_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def quick(call: Call) -> None:
        await call.head()
        await call.result()

    async with persisted(Scripted(quick=quick), tmp_store) as (port, persistence):
        session = await RawSession.open(port)
        (await access_to(persistence).context()).reports.listen(lambda _: 1 / 0)  # type: ignore[arg-type]
        told = await heard(persistence)
        assert b"done" in await answer(session, "quick")
        await one(told)
    assert "ZeroDivisionError" in caplog.text


async def test_a_session_stream_is_no_exchange(tmp_store: str) -> None:
    async def stream(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.end()

    async with listening(tmp_store, GET=stream) as (session, told):
        response = await request(session.port, "GET", "/mcp", headers=session.headers())
        await response.take(1)
        response.close()
    assert told == []
