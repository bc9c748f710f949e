"""A session has one home, and any worker serves it."""

import asyncio
import contextlib
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import redis

from mcp_persist_middleware.stores.redis.scripts import Keys
from tests.multiworker.stateful_app import workers
from tests.support.processes import ServerProcess, stand_still
from tests.support.session import MODERN, RawSession
from tests.support.sse_client import Frame, Response, request
from tests.support.stores import WITH_AND_WITHOUT_REDIS, Store

pytestmark = pytest.mark.timeout(90)

# Where no lock tells of a death its lease does.
QUICK: dict[str, float] = {"lease_seconds": 3, "store_timeout": 1.5}


def on(session: RawSession, server: ServerProcess) -> RawSession:
    """The same session, asked of this worker from now on."""
    session.port = server.port
    return session


async def value(response: Response) -> Any:
    """What a tool answered, or the status of a refusal."""
    if response.status != 200:
        return response.status
    (frame,) = [frame for frame in await read(response) if frame.is_response]
    return frame.message.get("result", {}).get("value", frame.message.get("error"))


async def read(response: Response) -> list[Frame]:
    """The frames with data up to the answer."""
    frames = []
    async for frame in response.frames():
        frames += [frame] if frame.data else []
        if frame.is_response:
            break
    return frames


async def reply(session: RawSession, frame: Frame, text: str) -> int:
    """The client's answer to a question of the server."""
    message = {"jsonrpc": "2.0", "id": frame.message["id"], "result": text}
    response = await session._send(message, session.headers())
    response.close()
    return response.status


async def test_the_state_of_a_session_is_one_whichever_worker_is_asked(
    tmp_path: Path, store: Store
) -> None:
    choice = random.Random(7)
    async with workers(tmp_path, 3, store=store) as servers:

        async def one_client(number: int) -> list[Any]:
            session = await RawSession.open(servers[number % 3].port)
            return [
                await value(await on(session, choice.choice(servers)).call("count"))
                for _ in range(12)
            ]

        values = await asyncio.gather(*(one_client(number) for number in range(6)))
        for each in values:
            assert each == list(range(1, 13))
        assert not any(server.complaints for server in servers)


async def test_wall_clocks_that_differ_and_are_set_while_calls_run_cost_nothing(
    tmp_path: Path, store: Store
) -> None:
    async with workers(tmp_path, store=store) as (one, two):
        session, other = await RawSession.open(one.port), await RawSession.open(two.port)
        for minutes in (1, 61, -61):
            asked = await on(session, two).call("ask")
            (question,) = await asked.take(1)
            steps = {"name": f"steps {minutes}", "n": 10, "delay": 0.05}
            runs = await on(other, one).call("steps", **steps)
            cut = await on(session, two).call("steps", **steps)
            cursor = (await cut.take(2))[-1].id
            cut.close()
            plain = await on(other, two).call("set clock", by=60 * minutes)
            assert json.loads(await plain.body())["result"]["value"] == 60 * minutes
            assert await value(await on(session, two).call("count")) is not None
            assert await reply(on(session, two), question, "ann") == 202
            assert await value(asked) == "ann"
            seen = [*await read(runs), *await read(await on(session, two).get(cursor))]
            assert [f.progress for f in seen if not f.is_response] == [*range(1, 11), *range(3, 11)]
        late = await on(session, two).get(cursor)
        assert [f.progress for f in await read(late) if not f.is_response] == [*range(3, 11)]
        assert not one.complaints
        assert not two.complaints


@WITH_AND_WITHOUT_REDIS
async def test_a_question_is_answered_through_the_other_worker(
    tmp_path: Path, store: Store
) -> None:
    async with workers(tmp_path, store=store) as (one, two):
        session = await RawSession.open(one.port)
        for asked, answered in ((one, two), (two, one), (two, two)):
            response = await on(session, asked).call("ask")
            (question,) = await response.take(1)
            assert question.message["method"] == "elicitation/create"
            assert await reply(on(session, answered), question, "ann") == 202
            assert await value(response) == "ann"


@WITH_AND_WITHOUT_REDIS
async def test_a_call_is_cancelled_through_the_other_worker(tmp_path: Path, store: Store) -> None:
    async with workers(tmp_path, store=store) as (one, two):
        session = await RawSession.open(one.port)
        for asked, cancelled in ((one, two), (two, one), (two, two)):
            params = {"name": "pause", "arguments": {}}
            number = random.Random().getrandbits(30)
            response = await on(session, asked).post("tools/call", params, request_id=number)
            (progress,) = await response.take(1)
            assert progress.progress == 1
            gone = {"requestId": number}
            status = await on(session, cancelled).notify("notifications/cancelled", gone)
            assert status == 202
            assert await value(response) == "cancelled"


@WITH_AND_WITHOUT_REDIS
async def test_a_session_deleted_on_one_worker_is_unknown_to_both(
    tmp_path: Path, store: Store
) -> None:
    async with workers(tmp_path, store=store) as (one, two):
        session = await RawSession.open(one.port)
        assert await value(await on(session, two).call("count")) == 1
        assert await on(session, two).delete() == 200
        for server in (one, two):
            assert await value(await on(session, server).call("count")) == 404
        await one.kill()
        await one.start()
        assert await value(await on(session, one).call("count")) == 404


@WITH_AND_WITHOUT_REDIS
async def test_plain_answers_and_refusals_cross_unchanged(tmp_path: Path, store: Store) -> None:
    async with workers(tmp_path, store=store) as (one, two):
        session = await RawSession.open(one.port)
        answers = []
        for server in (one, two):
            params = {"name": "plain", "arguments": {"size": 300_000}}
            response = await on(session, server).post("tools/call", params)
            body = await response.body()
            assert (response.status, response.headers["content-type"]) == (200, "application/json")
            answers.append(len(body))
        assert answers[0] == answers[1] > 300_000
        for credential, status, name in (
            ("nobody", 401, "www-authenticate"),
            ("busy", 503, "retry-after"),
        ):
            session.extra = {"authorization": credential}
            seen = []
            for server in (one, two):
                response = await on(session, server).call("count")
                headers = [h for h in response.raw_headers if h[0] not in ("date", "server")]
                seen.append((response.status, headers, await response.body()))
            assert seen[0] == seen[1]
            assert seen[1][0] == status
            assert name in dict(seen[1][1])
        # Whose the session is does not depend on a version that the application may not know.
        session.extra, session.version = {}, MODERN
        assert await value(await on(session, one).call("count")) == 3
        assert await value(await on(session, two).call("count")) == 4
        response = await request(two.port, "PUT", headers=session.headers(), body=b"x")
        assert response.status == 405


async def test_a_call_whose_home_is_killed_ends_with_an_error_and_the_next_one_works(
    tmp_path: Path,
    store: Store,
) -> None:
    async with workers(tmp_path, store=store, **QUICK) as (one, two):
        session = await RawSession.open(one.port)
        response = await on(session, two).call("pause")
        (progress,) = await response.take(1)
        assert progress.progress == 1
        await one.kill()
        error = await asyncio.wait_for(value(response), 30)
        assert "not run again" in error["message"]
        told = await value(await session.call("tell"))
        assert (told["session"], told["generation"]) == (session.session_id, 2)
        assert await value(await session.call("count")) == 2
        # The worker that comes back relays to where the session is now.
        await one.start()
        assert await value(await on(session, one).call("count")) == 3


async def test_a_call_that_was_taken_by_a_home_that_dies_is_not_run_again(
    tmp_path: Path, store: Store
) -> None:
    async with workers(tmp_path, store=store, **QUICK) as (one, two):
        session = await RawSession.open(one.port)
        call = asyncio.create_task(on(session, two).call("stuck"))
        await one.wait_for_log("stuck")
        await one.kill()
        response = await asyncio.wait_for(call, 30)
        error = await value(response)
        assert "not run again" in error["message"]
        assert "stuck" not in two.log


async def test_a_home_that_stands_still_loses_its_sessions_and_runs_nothing_afterwards(
    tmp_path: Path,
    store: Store,
) -> None:
    async with workers(tmp_path, lease_seconds=3, store_timeout=1.5, store=store) as (one, two):
        session = await RawSession.open(one.port)
        stand_still(one, store)
        response = await asyncio.wait_for(on(session, two).call("work", n=1), 30)
        assert await value(response) == 1
        os.kill(one.pid, signal.SIGCONT)
        await one.wait_for_log("goes on as a new one")
        for expected, server in enumerate((one, two, one), 2):
            # While a worker begins anew it answers 503.
            async with asyncio.timeout(20):
                while (found := await value(await on(session, server).call("count"))) == 503:
                    await asyncio.sleep(0.05)
            assert found == expected
        assert "work 1" not in one.log


@WITH_AND_WITHOUT_REDIS
async def test_a_cancellation_does_not_overtake_its_call(tmp_path: Path, store: Store) -> None:
    async with workers(tmp_path, store=store) as (one, two):
        session = await RawSession.open(one.port)
        stand_still(one, store)
        params = {"name": "pause", "arguments": {}}
        call = asyncio.create_task(on(session, two).post("tools/call", params, request_id=77))
        await waiting(store, 1)
        cancel = asyncio.create_task(session.notify("notifications/cancelled", {"requestId": 77}))
        await waiting(store, 2)
        os.kill(one.pid, signal.SIGCONT)
        assert await value(await call) == "cancelled"
        assert await cancel == 202


async def test_what_a_dead_home_had_not_claimed_is_run_once_by_the_next(
    tmp_path: Path, store: Store
) -> None:
    async with workers(tmp_path, store=store, **QUICK) as (one, two):
        session = await RawSession.open(one.port)
        assert await value(await on(session, two).call("count")) == 1
        stand_still(one, store)
        calls = [asyncio.create_task(session.call("work", n=n)) for n in range(5)]
        await waiting(store, 5)
        await one.kill()
        values = [await value(await asyncio.wait_for(call, 30)) for call in calls]
        assert sorted(values) == [1, 2, 3, 4, 5]
        ran = [line for line in (one.log + two.log).splitlines() if line.startswith("work ")]
        assert sorted(ran) == [f"work {n}" for n in range(5)]


@WITH_AND_WITHOUT_REDIS
async def test_credentials_lie_in_no_row_that_can_be_read(tmp_path: Path, store: Store) -> None:
    async with workers(tmp_path, store=store) as (one, two):
        session = await RawSession.open(one.port, extra={"authorization": "open-sesame"})
        stand_still(one, store)
        call = asyncio.create_task(on(session, two).call("work", n="cave-of-treasures"))
        await waiting(store, 1)
        ((content, sealed),) = await enqueued(store)
        assert sealed
        for text in (b"open-sesame", b"cave-of-treasures"):
            assert text not in content
        os.kill(one.pid, signal.SIGCONT)
        assert await value(await call) == 1


@WITH_AND_WITHOUT_REDIS
async def test_a_client_that_leaves_before_its_request_is_taken_cancels_nothing(
    tmp_path: Path, store: Store
) -> None:
    """As on the session's own worker: its application had the whole request."""
    async with workers(tmp_path, store=store) as (one, two):
        session = await RawSession.open(one.port)
        stand_still(one, store)
        body = b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"count"}}'
        _, writer = await asyncio.open_connection("127.0.0.1", two.port)
        lines = [f"{name}: {text}" for name, text in session.headers().items()]
        lines += ["host: here", f"content-length: {len(body)}"]
        writer.write(("POST /mcp HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode() + body)
        await waiting(store, 1)
        writer.transport.abort()
        os.kill(one.pid, signal.SIGCONT)
        await waiting(store, 0)
        assert await value(await on(session, two).call("count")) == 2


@WITH_AND_WITHOUT_REDIS
async def test_a_session_stream_is_served_through_the_other_worker(
    tmp_path: Path, store: Store
) -> None:
    """With a real server: the application of the other tests has no such stream."""
    from tests.multiworker.servers import two_servers

    async with two_servers(tmp_path, store=store) as (one, two):
        session = await RawSession.open(one.port)
        stream = await on(session, two).get()
        assert stream.status == 200
        assert stream.is_stream
        assert stream.headers["mcp-session-id"] == session.session_id
        assert await session.delete() == 200
        async for _ in stream.frames():
            pass


@pytest.mark.timeout(25)
@pytest.mark.parametrize("asked", [0, 1])
async def test_a_session_that_was_deleted_over_a_running_call_does_not_outlive_a_crash(
    tmp_path: Path, store: Store, asked: int
) -> None:
    async with workers(tmp_path, hand_back=0.3, **QUICK, store=store) as (one, two):
        session = await RawSession.open(one.port, extra={"authorization": "Bearer ann"})
        response = await session.call("pause")
        assert b"is still running" in await response.body()
        assert await on(session, (one, two)[asked]).delete() == 200
        await one.kill()
        assert await value(await on(session, two).call("count")) == 404


@WITH_AND_WITHOUT_REDIS
async def test_every_worker_on_its_own_brings_nothing_back(tmp_path: Path, store: Store) -> None:
    async with workers(tmp_path, session_routing="local", store=store) as (one, two):
        session = await RawSession.open(one.port)
        assert await value(await on(session, two).call("count")) == 404
        assert await value(await on(session, one).call("count")) == 1


@WITH_AND_WITHOUT_REDIS
async def test_a_session_that_is_taken_over_is_nowhere_else(tmp_path: Path, store: Store) -> None:
    async with workers(tmp_path, session_routing="revive", store=store) as (one, two):
        session = await RawSession.open(one.port)
        generations = []
        for server in (one, two, two, one):
            told = await value(await on(session, server).call("tell"))
            generations.append(told["generation"])
        assert generations == [1, 2, 2, 3]
        assert await on(session, two).delete() == 200
        assert await value(await on(session, one).call("tell")) == 404


async def enqueued(store: Store) -> list[tuple[bytes, bool]]:
    """Content of the relayed requests that wait, and whether it is sealed."""
    rows = await store.rows("SELECT content, sealed FROM mcp_inbox WHERE state = 0")
    found = [(row[0], bool(row[1])) for row in rows]
    if "redis" in store.settings:
        ((secret,),) = await store.rows("SELECT value FROM mcp_meta WHERE name = 'secret'")
        with contextlib.closing(redis.Redis.from_url(store.settings["redis"])) as client:
            for key in client.scan_iter(f"{Keys('mcp_', secret).base}:*:l:*", count=10_000):
                relayed = client.hgetall(key)
                if relayed.get(b"s") == b"W":
                    found.append((relayed[b"c"], json.loads(relayed[b"h"])[-1]))
    return found


async def waiting(store: Store, count: int) -> None:
    """Wait until so many relayed requests wait."""
    async with asyncio.timeout(20):
        while len(await enqueued(store)) != count:
            await asyncio.sleep(0.01)


@WITH_AND_WITHOUT_REDIS
async def test_a_relayed_request_stays_in_its_namespace(tmp_path: Path, store: Store) -> None:
    async with workers(tmp_path, namespace="by tenant", store=store) as (one, two):
        ann = await RawSession.open(one.port, extra={"x-tenant": "ann"})
        bob = RawSession(two.port, session_id=ann.session_id, extra={"x-tenant": "bob"})
        assert await value(await on(ann, two).call("count")) == 1
        assert await value(await bob.call("count")) == 404
        assert await value(await on(ann, one).call("count")) == 2
        assert await bob.delete() == 404
        assert await value(await on(ann, two).call("count")) == 3


async def test_a_session_that_moved_a_moment_ago_is_found_by_who_saw_it_before(
    tmp_path: Path,
) -> None:
    async with workers(tmp_path, 3) as (home, seer, next_home):
        session = await RawSession.open(home.port)
        assert await value(await on(session, seer).call("count")) == 1
        await home.kill()
        assert await value(await on(session, next_home).call("count")) == 1
        told = [await value(await on(session, each).call("tell")) for each in (seer, next_home)]
        assert [each["generation"] for each in told] == [2, 2]
        assert await value(await on(session, seer).call("count")) == 4, "one state, four calls"
