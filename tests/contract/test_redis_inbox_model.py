"""Relayed requests in a Redis that forgets, in any order of events."""

import contextlib
import time

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import (
    EnqueueResult,
    RelayRequest,
    SessionKey,
)
from mcp_persist_middleware.stores.redis.inbox import RedisInbox
from mcp_persist_middleware.testing.contract.builders import KEY
from tests.contract.redis_pair import Pair, fresh

pytestmark = pytest.mark.timeout(60)


class Model:
    """What was run, and what was said of it."""

    def __init__(self, pair: Pair, client: redis.Redis) -> None:
        self.pair = pair
        self.client = client
        self.sent: list[RelayRequest] = []
        self.ran: list[bytes] = []
        self.told: set[bytes] = set()
        self.older: dict[bytes, tuple[int, bytes]] = {}

    async def put(self) -> None:
        new = fresh(key=SessionKey("default", "/mcp", KEY.id))
        with contextlib.suppress(StoreError):
            if await self.pair.sender.put(new, 1000) is EnqueueResult.ENQUEUED:
                self.sent.append(new)

    async def claim(self, limit: int = 2) -> None:
        for each in await self.pair.claim(limit):
            if each.not_executable:
                self.told.add(each.id)
                await self.pair.answer(each, b"not run")
            else:
                self.ran.append(each.id)

    async def withdraw(self) -> None:
        for each in self.sent[-3:]:
            if await self.pair.sender.withdraw(each.name):
                self.told.add(each.id)

    async def tombstone(self) -> None:
        new = fresh()
        assert isinstance(self.pair.sender, RedisInbox)
        self.pair.sender._doubts[new.id] = self.pair.sender._tokens.get("one", b"")
        if await self.pair.sender.tombstone(new.name, new.deadline):
            self.told.add(new.id)
        with contextlib.suppress(StoreError):
            await self.pair.sender.put(new, 1000)

    async def answer(self) -> None:
        for each in self.ran[-2:]:
            await self.pair.home.answer(each, "one", b"done", time.time() + 60)

    async def save(self) -> None:
        self.older = {
            key: (self.client.pttl(key), bytes(self.client.dump(key) or b""))
            for key in self.client.scan_iter("*{w:*")
        }

    async def flush(self) -> None:
        self.client.flushall()
        # Nobody waits here for the addressee's next look.
        await self.claim()

    async def restore(self) -> None:
        """Another server, with an older file."""
        self.client.flushall()
        self.client.execute_command("DEBUG", "CHANGE-REPL-ID")
        for key, (left, value) in self.older.items():
            self.client.restore(key, left, value)
        if self.older:
            await self.withdraw()
        await self.claim()


STEPS = ("put", "put", "claim", "withdraw", "tombstone", "answer", "save", "flush", "restore")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(STEPS), max_size=24))
@example(["put", "put", "save", "withdraw", "restore", "claim"])
@example(["put", "put", "save", "claim", "restore", "claim", "withdraw"])
@example(["put", "save", "claim", "answer", "restore", "claim", "put", "claim"])
@example(["tombstone", "put", "save", "tombstone", "restore", "claim"])
async def test_whatever_redis_forgets_no_request_is_run_twice_nor_after_its_sender_was_told(
    pair: Pair, steps: list[str]
) -> None:
    with contextlib.closing(pair.place.client) as client:
        client.flushall()
        model = Model(pair, client)
        await model.claim()
        for step in steps:
            await getattr(model, step)()
        for _ in range(3):
            await model.claim(100)
    assert len(set(model.ran)) == len(model.ran)
    assert not set(model.ran) & model.told
