"""Where relayed requests lie with Redis in front, and what becomes of them when its answers are
lost or it is away: none is run twice, and none that its sender was told was not run."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import (
    Certainty,
    EnqueueResult,
    RelayRequest,
    RelayState,
    RelayStatus,
)
from mcp_persist_middleware.stores.redis import requests
from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.inbox import RedisInbox
from mcp_persist_middleware.stores.redis.log import RedisLog
from tests.contract.redis_builders import Place
from tests.contract.redis_pair import ANSWERED, Pair, fresh, in_sql, workers
from tests.contract.test_redis_cluster import cluster
from tests.support.scripted import until
from tests.support.stores import RedisServer

pytestmark = pytest.mark.timeout(60)
__all__ = ["cluster"]

# Where relayed requests lie.


async def test_requests_lie_in_redis_and_every_key_has_an_end(pair: Pair) -> None:
    waiting, claimed, answered, withdrawn = [await pair.put() for _ in range(4)]
    assert await pair.sender.withdraw(withdrawn.name)
    got = await pair.claim(2)
    assert len(got) == 2
    await pair.answer(got[0])
    assert await in_sql(pair) == []
    keys = pair.keys()
    assert len(keys) >= 7
    with contextlib.closing(pair.place.client) as client:
        assert [key for key in keys if client.pttl(key) <= 0] == []
    assert {waiting.id, claimed.id, answered.id} >= {each.id for each in got}


async def test_what_is_large_lies_in_sql_and_its_addressee_is_told(pair: Pair) -> None:
    keys = pair.keys()
    sent = await pair.put(content=b"x" * 65_537)
    assert pair.keys() == keys
    pair.home._sql_due = time.monotonic() + 60  # type: ignore[attr-defined]
    got: list[RelayRequest] = []
    async with asyncio.timeout(5):
        while not got:
            got = await pair.claim()
    assert got == [sent]
    assert await pair.answer(sent)
    assert await pair.sender.look(sent.name) == ANSWERED


async def test_a_large_reply_lies_in_sql(pair: Pair) -> None:
    sent = await pair.put()
    await pair.claim()
    reply = b"y" * 65_537
    assert await pair.answer(sent, reply)
    assert not await pair.answer(sent, b"no")
    with contextlib.closing(pair.place.client) as client:
        assert max(map(client.memory_usage, pair.keys())) < 4096
    found = await pair.sender.look(sent.name)
    assert found == RelayStatus(RelayState.REPLIED, "one", reply)
    await pair.sender.remove([sent.name])
    assert await pair.sender.look(sent.name) is None
    assert await pair.one.inner.inbox.look(sent.name) is None


async def test_where_redis_does_not_say_which_server_it_is_requests_lie_in_sql(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(place.client) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all", "-info")
    url = f"redis://u:pw@127.0.0.1:{place.server.port}"
    async with workers(place, redis=url) as pair:
        sent = await pair.put()
        assert await in_sql(pair) == [sent.id]
    assert any("relayed requests between workers lie in SQL" in text for text in caplog.messages)


async def test_requests_of_many_workers_lie_in_the_slots_of_a_cluster(
    cluster: list[RedisServer], tmp_path: Path
) -> None:
    place = Place(tmp_path, cluster[0])
    place.settings["redis"] = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    async with workers(place) as pair:
        for n in range(12):
            name, now = f"worker{n}", time.time()
            assert await pair.home.claim(name, 9, now, now + 60) == []
            sent = fresh(worker=name)
            assert await pair.sender.put(sent, 9) is EnqueueResult.ENQUEUED
            (got,) = await pair.home.claim(name, 9, now, now + 60)
            assert got.content == sent.content
            assert await pair.home.answer(sent.id, name, b"done", now + 60)
            found = await pair.sender.look(sent.name)
            assert found is not None
            assert found.reply == b"done"
            back = fresh(worker=name)
            assert await pair.sender.put(back, 9) is EnqueueResult.ENQUEUED
            assert await pair.sender.withdraw(back.name)
            await pair.sender.remove([sent.name])
        held = []
        for node in cluster:
            with contextlib.closing(redis.Redis(port=node.port)) as client:
                held.append(len(list(client.scan_iter("*{w:*"))))
        assert min(held) > 0


async def test_the_first_reply_stands(pair: Pair) -> None:
    sent = await pair.put()
    await pair.claim()
    assert isinstance(pair.home, RedisInbox)
    box, answers = pair.home._box("one"), []
    for reply in (b"done", b"not run"):
        answers += await pair.one._client.run([box.answer(sent.id, reply, 60_000, "c", "A", b"")])
    assert answers == [1, 0]
    assert await pair.sender.look(sent.name) == ANSWERED


async def test_a_reply_is_stored_though_whoever_stores_it_is_cancelled(pair: Pair) -> None:
    sent = await pair.put()
    await pair.claim()
    answering = asyncio.create_task(pair.answer(sent))
    await asyncio.sleep(0)
    answering.cancel()
    await asyncio.wait([answering])
    await until(lambda: not len(pair.one._client._running))
    assert await pair.sender.look(sent.name) == ANSWERED


# Answers that were lost.


def losing(pair: Pair, worker: RedisLog, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The next call with this text is done, and its answer lost."""
    real, left = worker._client.run, [text]

    async def run(calls: Any, **more: Any) -> Any:
        replies = await real(calls, **more)
        if left and any(left[0] in str(call.whole[:2]) for call in calls):
            left.pop()
            raise RedisAwayError("lost")
        return replies

    monkeypatch.setattr(worker._client, "run", run)


async def test_a_put_whose_answer_was_lost_is_there(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.put()
    losing(pair, pair.two, monkeypatch, "'ZADD'")
    sent = fresh()
    with pytest.raises(StoreError):
        await pair.sender.put(sent, 9)
    assert not await pair.sender.tombstone(sent.name, sent.deadline)
    assert await pair.sender.withdraw(sent.name)
    # A late attempt posts it no more.
    with pytest.raises(StoreError):
        await pair.sender.put(sent, 9)
    assert sent.id not in await pair.served()


async def test_a_put_that_may_have_been_lost_with_a_memory_is_not_said_to_be_tombstoned(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pair.put()
    losing(pair, pair.two, monkeypatch, "'ZADD'")
    sent = fresh()
    with pytest.raises(StoreError):
        await pair.sender.put(sent, 9)
    assert sent.id in await pair.served()
    with contextlib.closing(pair.place.client) as client:
        client.flushall()
    await pair.served()
    assert not await pair.sender.tombstone(sent.name, sent.deadline)


async def test_a_claim_whose_answer_was_lost_is_given_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await pair.put()
    losing(pair, pair.one, monkeypatch, "'ZRANGE'")
    assert await pair.claim() == []
    (got,) = await pair.claim()
    assert (got.id, got.not_executable) == (sent.id, True)
    assert await pair.answer(got, b"not run")
    assert await pair.claim() == []


async def test_a_question_that_is_late_claims_nothing(pair: Pair) -> None:
    home = pair.home
    assert isinstance(home, RedisInbox)
    now, number = time.time(), home._questions + 1
    late = home._box("one").claim(b"x", home._who, number, 9, now, 60_000, now + 60)
    await pair.claim()
    sent = await pair.put()
    assert await pair.one._client.run([late]) == [[0]]
    assert await pair.served() == [sent.id]


# Redis is away, and comes back.


async def test_requests_go_to_sql_while_redis_is_away_and_none_is_lost_or_run_twice(
    pair: Pair,
) -> None:
    ran: list[bytes] = []
    sent: list[RelayRequest] = []
    lost: list[RelayRequest] = []
    for phase in range(3):
        if phase == 1:
            pair.place.server.stop(signal.SIGKILL)
        elif phase == 2:
            pair.place.server.start()
            await pair.both_up()
        for _ in range(20):
            new = fresh()
            try:
                async with asyncio.timeout(10):
                    putting = asyncio.create_task(pair.sender.put(new, 100))
                    while not putting.done():
                        ran += await pair.served()
                        await asyncio.sleep(0.01)
                    assert await putting is EnqueueResult.ENQUEUED
            except StoreError:
                lost.append(new)
            else:
                sent.append(new)
            ran += await pair.served()
    async with asyncio.timeout(5):
        while {each.id for each in sent} - set(ran):
            ran += await pair.served()
            await asyncio.sleep(0.05)
    assert len(set(ran)) == len(ran)
    assert len(lost) <= 2
    assert len(sent) >= 58
    for each in sent:
        assert await pair.answer(each)
        assert await pair.sender.look(each.name) == ANSWERED


async def test_a_reply_while_redis_is_away_stands_in_sql(pair: Pair) -> None:
    sent = await pair.put()
    assert await pair.served() == [sent.id]
    pair.place.server.stop(signal.SIGKILL)
    pair.one._client.leave("a test")
    pair.two._client.leave("a test")
    with pytest.raises(StoreError):
        await pair.sender.look(sent.name)
    assert await pair.answer(sent)
    assert await pair.sender.look(sent.name) == ANSWERED


async def test_a_request_whose_addressee_looks_into_redis_no_more_is_taken_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "OPEN", 200)
    await pair.claim()
    sent = await pair.put()
    pair.one._client.leave("a test")
    watching, pair.one._client._watching = pair.one._client._watching, None
    assert watching is not None
    watching.cancel()

    async def stranded() -> bool:
        found = await pair.sender.look(sent.name)
        return found is not None and found.certainty is Certainty.UNDELIVERABLE

    async with asyncio.timeout(5):
        while not await stranded():
            await asyncio.sleep(0.02)
    assert await pair.sender.withdraw(sent.name)
    after = await pair.put()
    assert [each.id for each in await pair.claim()] == [after.id]
