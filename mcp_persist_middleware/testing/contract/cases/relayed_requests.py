"""The relayed requests between workers: what every store promises of them."""

import asyncio
import secrets

import pytest

from mcp_persist_middleware.store import (
    Certainty,
    EnqueueResult,
    EventLog,
    RelayState,
    RelayStatus,
    SessionKey,
    StoreError,
)
from mcp_persist_middleware.testing.contract.builders import KEY, NOW, begin_session, claim, relayed


class RelayedRequests:
    """The relayed requests between workers: what every store promises of them."""

    async def test_a_request_is_claimed_with_its_content_and_answered_once(
        self, log: EventLog, other: EventLog
    ) -> None:
        await begin_session(log)
        sent = relayed()
        assert await other.inbox.put(sent, 10) is EnqueueResult.ENQUEUED
        assert await other.inbox.look(sent.name) == RelayStatus(RelayState.PENDING, "one", b"")
        (got,) = await claim(log, "one")
        assert (got.id, got.key, got.content, got.generation) == (sent.id, KEY, b"please", 1)
        assert await log.inbox.claimed("one") == [sent.id]
        assert await claim(log, "one") == []
        assert await log.inbox.answer(sent.id, "one", b"done", NOW + 60)
        assert not await log.inbox.answer(sent.id, "one", b"twice", NOW + 60)
        assert await other.inbox.look(sent.name) == RelayStatus(RelayState.REPLIED, "one", b"done")
        assert await log.inbox.claimed("one") == []
        await other.inbox.remove([sent.name])
        assert await other.inbox.look(sent.name) is None

    async def test_a_worker_claims_only_requests_for_itself_the_oldest_first(
        self, log: EventLog
    ) -> None:
        await begin_session(log)
        elsewhere = SessionKey("default", "/mcp", "t")
        await begin_session(log, elsewhere, "two")
        mine = [relayed() for _ in range(3)]
        for each in [*mine, relayed(key=elsewhere, worker="two")]:
            assert await log.inbox.put(each, 10) is EnqueueResult.ENQUEUED
        (first,) = await log.inbox.claim("one", 1, NOW, NOW + 60)
        rest = await claim(log, "one")
        assert [first.id, *(each.id for each in rest)] == sorted(each.id for each in mine)

    async def test_no_more_requests_wait_for_one_worker_than_may(self, log: EventLog) -> None:
        await begin_session(log)
        put = [await log.inbox.put(relayed(), 3) for _ in range(5)]
        assert put == [EnqueueResult.ENQUEUED] * 3 + [EnqueueResult.FULL] * 2
        await log.inbox.claim("one", 1, NOW, NOW + 60)
        assert await log.inbox.put(relayed(), 3) is EnqueueResult.ENQUEUED

    async def test_a_request_that_was_withdrawn_is_not_claimed_nor_the_reverse(
        self, log: EventLog
    ) -> None:
        await begin_session(log)
        one, two = relayed(), relayed()
        await log.inbox.put(one, 10)
        assert await log.inbox.withdraw(one.name)
        assert await claim(log, "one") == []
        await log.inbox.put(two, 10)
        await claim(log, "one")
        assert not await log.inbox.withdraw(two.name)

    async def test_a_claimed_request_is_overdue_when_its_addressee_does_not_say_that_it_runs_it(
        self, log: EventLog, other: EventLog
    ) -> None:
        await begin_session(log)
        kept, left, gone = (relayed() for _ in range(3))
        for each in (kept, left, gone):
            assert await other.inbox.put(each, 10) is EnqueueResult.ENQUEUED
        now = log.inbox.now()
        assert len(await log.inbox.claim("one", 3, NOW, now - 1)) == 3
        for each in (kept, left):
            status = await other.inbox.look(each.name)
            assert status is not None
            assert (status.state, status.certainty) == (RelayState.CLAIMED, Certainty.OVERDUE)
        await other.inbox.remove([gone.name])
        ids = [kept.id, gone.id, secrets.token_bytes(16)]
        assert list(await log.inbox.renew("one", ids, now + 60)) == [kept.id]
        for each, certainty in ((kept, Certainty.KNOWN), (left, Certainty.OVERDUE)):
            status = await other.inbox.look(each.name)
            assert status is not None
            assert status.certainty is certainty
        assert await log.inbox.answer(left.id, "one", b"late", now + 60)
        last = await other.inbox.look(left.name)
        assert last == RelayStatus(RelayState.REPLIED, "one", b"late")

    async def test_a_request_that_was_tombstoned_is_never_enqueued(
        self, log: EventLog, other: EventLog
    ) -> None:
        await begin_session(log)
        sent = relayed()
        assert await log.inbox.tombstone(sent.name, NOW + 10)
        assert not await other.inbox.tombstone(sent.name, NOW + 10)
        with pytest.raises(StoreError):
            await other.inbox.put(sent, 10)
        assert await claim(log, "one") == []
        assert await log.inbox.purge(NOW + 5, 100) == 0
        assert await log.inbox.purge(NOW + 11, 100) == 1
        enqueued = relayed()
        assert await log.inbox.put(enqueued, 10) is EnqueueResult.ENQUEUED
        assert not await other.inbox.tombstone(enqueued.name, NOW + 10)
        assert [each.id for each in await claim(log, "one")] == [enqueued.id]

    @pytest.mark.parametrize("first", ["put", "bar"])
    async def test_of_a_post_and_its_bar_one_holds(
        self, log: EventLog, other: EventLog, first: str
    ) -> None:
        await begin_session(log)
        for _ in range(20):
            sent = relayed()
            both = [log.inbox.put(sent, 100), other.inbox.tombstone(sent.name, NOW + 10)]
            done = await asyncio.gather(
                *both[:: 1 if first == "put" else -1], return_exceptions=True
            )
            put, tombstoned = done if first == "put" else done[::-1]
            assert (put is EnqueueResult.ENQUEUED) == (tombstoned is False)
            assert isinstance(put, StoreError) == (tombstoned is True)
        await claim(log, "one")

    async def test_of_all_who_claim_or_withdraw_at_once_one_gets_the_request(
        self, log: EventLog, other: EventLog
    ) -> None:
        await begin_session(log)
        for _ in range(20):
            sent = relayed()
            await log.inbox.put(sent, 10)
            *claims, withdrawn = await asyncio.gather(
                claim(log, "one"),
                claim(other, "one"),
                claim(log, "one"),
                log.inbox.withdraw(sent.name),
            )
            got = [each.id for claimed in claims for each in claimed]
            assert got + [sent.id] * withdrawn == [sent.id]

    async def test_each_worker_publishes_its_own_key(self, log: EventLog, other: EventLog) -> None:
        assert await other.inbox.public_key("one") is None
        await log.inbox.publish("one", b"k" * 32)
        assert await other.inbox.public_key("one") == b"k" * 32
        assert await other.inbox.public_key("two") is None
        assert await other.inbox.public_key("nobody") is None
