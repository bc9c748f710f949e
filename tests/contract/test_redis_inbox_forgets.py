"""Relayed requests in a Redis that forgets, fails over or comes back with an older file: none is
run twice, and none that its sender was told was not run."""

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware.model import (
    Certainty,
    EnqueueResult,
)
from tests.contract.redis_builders import Place
from tests.contract.redis_pair import ANSWERED, Pair, fresh, workers
from tests.support.scripted import until
from tests.support.stores import RedisServer

pytestmark = pytest.mark.timeout(60)


async def test_a_request_that_was_flushed_is_not_run_and_its_sender_is_not_told_so(
    pair: Pair,
) -> None:
    sent = await pair.put()
    with contextlib.closing(pair.place.client) as client:
        client.flushall()
    assert not await pair.sender.withdraw(sent.name)
    assert await pair.sender.look(sent.name) is None
    assert await pair.served() == []
    # It goes on.
    assert await pair.served() == []
    after = await pair.put()
    assert await pair.served() == [after.id]


async def test_a_request_is_enqueued_as_soon_as_its_addressee_has_looked_into_a_flushed_redis(
    pair: Pair,
) -> None:
    await pair.put()
    with contextlib.closing(pair.place.client) as client:
        client.flushall()
    sent = fresh()
    putting = asyncio.create_task(pair.sender.put(sent, 9))
    await asyncio.sleep(0.2)
    assert await pair.served() == []
    assert await putting is EnqueueResult.ENQUEUED
    assert await pair.served() == [sent.id]


async def test_the_reply_to_a_request_that_was_flushed_arrives(pair: Pair) -> None:
    sent = await pair.put()
    assert await pair.served() == [sent.id]
    with contextlib.closing(pair.place.client) as client:
        client.flushall()
    assert await pair.answer(sent)
    assert await pair.sender.look(sent.name) == ANSWERED


FILES = {
    "snapshot": ("dump.rdb", ()),
    "append-only file": ("appendonly.aof", ("--appendonly", "yes", "--appendfsync", "always")),
}


@pytest.mark.parametrize("kind", FILES)
async def test_what_an_older_file_brings_back_is_not_run(tmp_path: Path, kind: str) -> None:
    name, arguments = FILES[kind]
    server = RedisServer(tmp_path / "redis", *arguments)
    server.start()
    file, older = server.directory / name, tmp_path / "older"
    try:
        async with workers(Place(tmp_path, server)) as pair:
            claimed, withdrawn, waiting = [await pair.put() for _ in range(3)]
            with contextlib.closing(pair.place.client) as client:
                client.save()
            shutil.copy(file, older)
            assert await pair.sender.withdraw(withdrawn.name)
            got = [each.id for each in await pair.claim(1)]
            assert got in ([claimed.id], [waiting.id])
            server.stop(signal.SIGKILL)
            shutil.copy(older, file)
            server.start()
            await pair.both_up()
            with contextlib.closing(pair.place.client) as client:
                assert len(list(client.scan_iter("*:l:*"))) == 3
            for each in (claimed, withdrawn, waiting):
                found = await pair.sender.look(each.name)
                assert found is not None
                assert found.certainty is Certainty.UNKNOWN
                assert not await pair.sender.withdraw(each.name)
            back = await pair.claim()
            assert all(each.not_executable for each in back)
            # Of the one that it had it says nothing, for it runs.
            assert {each.id for each in back} == {
                each.id for each in (claimed, withdrawn, waiting) if each.id not in got
            }
            for each in back:
                assert await pair.home.answer(each.id, "one", b"not run", time.time() + 60)
            after = await pair.put()
            assert await pair.served() == [after.id]
    finally:
        server.stop(signal.SIGKILL)


@pytest.fixture
async def torn(pair: Pair, tmp_path: Path) -> AsyncIterator[Callable[[], Any]]:
    """Promotes a replica that has had everything so far; clients of the promoted one."""
    server = RedisServer(
        tmp_path / "replica", "--replicaof", "127.0.0.1", str(pair.place.server.port)
    )
    server.start()
    other = Place(tmp_path, server)
    with contextlib.closing(pair.place.client) as client:
        await until(lambda: client.wait(1, 100) == 1)
    # The first replica gives its primary another history, and so another token.
    assert await pair.claim() == []
    async with contextlib.AsyncExitStack() as stack:

        async def promote() -> tuple[Any, Any]:
            with contextlib.closing(pair.place.client) as client:
                await until(lambda: client.wait(1, 100) == 1)
            with contextlib.closing(other.client) as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
            made = [await stack.enter_async_context(other.worker(n)) for n in ("3", "4")]
            return made[0]._client, made[1]._client

        yield promote
    server.stop(signal.SIGKILL)


async def test_what_a_replica_that_was_behind_brings_back_is_not_run(
    pair: Pair, torn: Callable[[], Any]
) -> None:
    withdrawn, claimed = await pair.put(), await pair.put()
    home, sender = await torn()
    assert await pair.sender.withdraw(withdrawn.name)
    assert await pair.served() == [claimed.id]
    pair.home._client, pair.sender._client = home, sender  # type: ignore[attr-defined]
    assert not await pair.sender.withdraw(claimed.name)
    assert [(each.id, each.not_executable) for each in await pair.claim()] == [(withdrawn.id, True)]
    # Its reply reaches the sender all the same.
    assert await pair.answer(claimed)
    assert await pair.sender.look(claimed.name) == ANSWERED


async def test_of_two_halves_that_both_think_they_are_primary_neither_runs_what_the_other_took_back(
    pair: Pair, torn: Callable[[], Any]
) -> None:
    first, second = await pair.put(), await pair.put()
    home, sender = await torn()
    before = pair.sender._client  # type: ignore[attr-defined]
    # The sender is on the other side: it knows nothing, and says so.
    pair.sender._client = sender  # type: ignore[attr-defined]
    assert not await pair.sender.withdraw(first.name)
    found = await pair.sender.look(first.name)
    assert found is not None
    assert found.certainty is Certainty.UNKNOWN
    # The addressee is.
    pair.sender._client = before  # type: ignore[attr-defined]
    assert await pair.sender.withdraw(second.name)
    pair.home._client = home  # type: ignore[attr-defined]
    assert await pair.served() == []
