"""Who is on a store: heartbeats, and the verdict that ends them."""

from collections.abc import AsyncIterator

import pytest_asyncio

from mcp_persist_middleware.store import EventLog, WorkerState, WorkerTable
from mcp_persist_middleware.testing.contract.builders import COMMITTED, Factory, new, record


class Workers:
    """Who is on a store: heartbeats, and the verdict that ends them."""

    @pytest_asyncio.fixture
    async def table(self, log: EventLog) -> AsyncIterator[WorkerTable]:
        """The table as the heartbeat of worker "one" has it."""
        made = log.worker_table()
        yield made
        await made.aclose()

    async def test_who_opens_a_store_is_seen_and_who_closes_it_is_gone(
        self, log: EventLog, other: EventLog
    ) -> None:
        seen = await log.workers()
        assert seen.keys() == {"one", "two"}
        assert seen["two"].state is WorkerState.LIVE
        assert not log.is_gone("two")
        await other.aclose()
        assert (await log.workers()).keys() == {"one"}

    async def test_a_heartbeat_moves_its_own_counter_and_tells_the_state(
        self, other: EventLog, table: WorkerTable
    ) -> None:
        before = await other.workers()
        assert await table.beat("one", WorkerState.LIVE)
        assert await table.beat("one", WorkerState.DRAINING)
        after = await table.look()
        assert after == await other.workers()
        assert after["one"].counter == before["one"].counter + 2
        assert after["one"].state is WorkerState.DRAINING
        assert after["one"].seen_at >= before["one"].seen_at
        assert after["two"] == before["two"]

    async def test_of_a_heartbeat_and_a_verdict_the_first_counts(
        self, log: EventLog, other: EventLog, table: WorkerTable
    ) -> None:
        stale = (await other.workers())["one"].counter
        assert await table.beat("one", WorkerState.LIVE)
        assert not await other.declare_dead("one", stale)
        assert await other.declare_dead("one", stale + 1)
        assert await other.declare_dead("one", stale + 1), "whoever finds it out later agrees"
        assert not await table.beat("one", WorkerState.LIVE)
        assert (await log.workers())["one"].state is WorkerState.DEAD
        assert (await log.workers())["one"].counter == stale + 1

    async def test_a_row_that_was_removed_takes_no_heartbeat_until_it_is_made_again(
        self, log: EventLog, other: EventLog, table: WorkerTable
    ) -> None:
        await other.deregister("one")
        await other.deregister("one")
        assert not await table.beat("one", WorkerState.LIVE)
        assert not await other.declare_dead("one", 1)
        await table.enrol("one")
        assert await table.beat("one", WorkerState.LIVE)
        assert (await log.workers())["one"].counter == 2

    async def test_a_verdict_on_a_worker_leaves_its_streams_to_their_epoch(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream = record(worker="one")
        await log.append([new(stream)])
        assert await other.declare_dead("one", (await other.workers())["one"].counter)
        assert await other.open_streams_of("one", 10) == [stream]
        assert await log.append([new(record(worker="one"))]) == [COMMITTED]

    async def test_a_store_is_opened_and_left_many_times_under_one_name(
        self, make_log: Factory
    ) -> None:
        for _ in range(3):
            made = make_log()
            await made.open("one")
            assert (await made.workers()).keys() == {"one"}
            await made.aclose()
            await made.aclose()
