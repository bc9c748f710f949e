"""Jobs: found by whoever knows the id, once for each key, and never more than may be. A test of
what yours has not is passed over."""

import asyncio
import dataclasses
from typing import Any

import pytest

from mcp_persist_middleware.protocol import job_id
from mcp_persist_middleware.store import (
    EventLog,
    JobCreation,
    JobFace,
    JobRecord,
    Jobs,
    Owner,
    Place,
    StreamRecord,
    Whose,
)
from mcp_persist_middleware.testing.contract.builders import ending, new, record

CREATED, TAKEN, FULL = JobCreation.CREATED, JobCreation.TAKEN, JobCreation.FULL
BOUNDS = (100, 50)
HERE = Place("default", "/mcp")


def of(log: EventLog) -> Jobs:
    """The jobs of a store that has them."""
    if log.jobs is None:
        pytest.skip("this store keeps no jobs")
    return log.jobs


def job(log: EventLog, stream: StreamRecord | None = None, **more: Any) -> JobRecord:
    """A new job, of a stream or of one that is not there yet."""
    now = log.now()
    known: dict[str, Any] = {
        "id": job_id.new(now),
        "owner": Owner(*HERE, "", "ann"),
        "account": "ann",
        "face": JobFace.EXTENSION,
        "worker": "one",
        "tool": "slow",
        "stream": stream.id if stream is not None else b"s" * 16,
        "request_id": "1",
        "created_at": now,
        "updated_at": now,
        "expires_at": now + 60.0,
    }
    return JobRecord(**known | more)


async def create(log: EventLog, *jobs: JobRecord, most: int = 100, of_one: int = 50) -> JobCreation:
    """Create jobs, one after the other; what became of the last one."""
    found = FULL
    for each in jobs:
        found = await of(log).create(each, most, of_one)
    return found


class JobTable:
    """Jobs: found by whoever knows the id, once for each key, and never more than may be."""

    async def test_a_job_is_found_by_every_worker_as_it_was_made(
        self, log: EventLog, other: EventLog
    ) -> None:
        whole: dict[str, Any] = {
            "key": "k" * 64,
            "arguments": "a" * 64,
            "request": b"\0{}",
            "inputs": b"{}",
        }
        made = job(log, owner=Owner("ü", "/b", "s", "ben~x"), tool="a tool", round=2, **whole)
        assert await create(log, made) is CREATED
        assert await of(other).find(made.id) == made
        assert await of(other).find_key(Place("ü", "/b"), made.key) == made
        for place, key in ((HERE, made.key), (Place("ü", "/b"), "other"), (Place("ü", "/b"), "")):
            assert await of(log).find_key(place, key) is None
        assert await of(log).find(job_id.new(log.now())) is None

    async def test_jobs_are_found_by_the_streams_that_answer_them(self, log: EventLog) -> None:
        streams = [bytes([number]) * 16 for number in range(3)]
        made = [dataclasses.replace(job(log, request=b"asked"), stream=each) for each in streams]
        await create(log, *made)
        found = await of(log).of_streams([streams[0], streams[2], b"x" * 16])
        told = {(each.id, each.stream, each.tool, each.face) for each in found}
        assert told == {(m.id, m.stream, m.tool, m.face) for m in (made[0], made[2])}
        assert not await of(log).of_streams([])

    async def test_of_many_who_begin_the_same_one_does(
        self, log: EventLog, other: EventLog
    ) -> None:
        tries = [of(worker).create(job(worker, key="same"), *BOUNDS) for worker in [log, other] * 5]
        done = await asyncio.gather(*tries)
        assert sorted(each.value for each in done) == ["created"] + ["taken"] * 9
        assert (await of(log).find_key(HERE, "same")) is not None
        assert await create(log, job(log), job(log)) is CREATED, "no key is nobody's"

    async def test_a_job_is_created_once_under_its_id(self, log: EventLog, other: EventLog) -> None:
        made = job(log)
        assert await create(log, made) is CREATED
        assert await create(other, dataclasses.replace(made, tool="another")) is TAKEN
        assert await of(other).find(made.id) == made

    async def test_a_key_is_free_again_when_its_job_has_expired_or_is_gone(
        self, log: EventLog
    ) -> None:
        late = job(log, key="same", expires_at=log.now() - 1.0)
        await create(log, late)
        assert await of(log).find_key(HERE, "same") is None
        assert await of(log).find(late.id) == late
        following = job(log, key="same")
        assert await create(log, following) is CREATED
        assert await of(log).find(late.id) is None
        assert await of(log).remove([following.id, late.id]) == 1
        assert await create(log, job(log, key="same")) is CREATED

    async def test_a_job_is_changed_by_one_at_a_time(self, log: EventLog, other: EventLog) -> None:
        made = job(log, request=b"{}")
        await create(log, made)
        news: dict[str, Any] = {
            "stream": b"t" * 16,
            "worker": "two",
            "round": 1,
            "inputs": b'{"a":1}',
        }
        moved = dataclasses.replace(
            made, updated_at=made.updated_at + 1, expires_at=made.expires_at + 1, **news
        )
        tries = [of(worker).change(moved) for worker in [log, other] * 5]
        assert sorted(await asyncio.gather(*tries)) == [False] * 9 + [True]
        found = await of(log).find(made.id)
        assert found == dataclasses.replace(moved, revision=2)
        assert not await of(log).change(job(log))

    async def test_there_are_never_more_than_may_be_and_what_has_ended_goes_first(
        self, log: EventLog
    ) -> None:
        streams = [record() for _ in range(4)]
        await log.append([new(streams[0])])
        await log.append([new(each, ending=ending(0)) for each in streams[1:]])
        jobs = [job(log, stream, id=bytes([n]) * 24) for n, stream in enumerate(streams)]
        await create(log, *jobs)
        ben: dict[str, Any] = {"owner": Owner(*HERE, "", "ben"), "account": "ben"}
        assert await create(log, job(log, **ben), of_one=4) is CREATED
        assert await create(log, job(log), of_one=4) is CREATED
        found = [await of(log).find(each.id) is not None for each in jobs]
        assert found == [True, False, True, True], "the oldest that has ended made room"
        assert await create(log, job(log), of_one=1) is FULL
        assert await create(log, job(log, **ben), most=1) is FULL

    async def test_the_newest_are_listed_first_page_by_page(self, log: EventLog) -> None:
        jobs = [job(log, id=bytes([n]) * 24) for n in range(1, 6)]
        strange = job(log, account="ben", id=bytes([6]) * 24)
        await create(log, *jobs, strange)
        first = await of(log).list("ann", b"", 3)
        assert [each.id for each in first] == [each.id for each in jobs[:1:-1]]
        rest = await of(log).list("ann", first[-1].id, 3)
        assert [each.id for each in rest] == [each.id for each in jobs[1::-1]]
        assert [each.id for each in await of(log).list(None, b"", 1)] == [strange.id]

    async def test_what_has_expired_is_purged_the_oldest_first(self, log: EventLog) -> None:
        asked = [b"asked", None, None, None, None]
        jobs = [job(log, expires_at=10.0 + n, request=each) for n, each in enumerate(asked)]
        await create(log, *jobs)
        gone = [await of(log).purge(13.5, 3) for _ in range(3)]
        told = [{(each.id, each.request is None) for each in some} for some in gone]
        known = [(each.id, each.request is None) for each in jobs]
        assert told == [set(known[:3]), {known[3]}, set()]
        left = [await of(log).find(each.id) is not None for each in jobs]
        assert left == [False] * 4 + [True]

    async def test_the_jobs_of_somebody_are_forgotten_and_no_others(self, log: EventLog) -> None:
        owners = [
            Owner(*HERE, "", "ann"),
            Owner(*HERE, "s", "early:ann~x"),
            Owner(*HERE, "s", "ben"),
            Owner("other", "/mcp", "", "cem"),
        ]
        jobs = [job(log, owner=owner) for owner in owners]
        await create(log, *jobs)
        assert await of(log).forget(Whose(principals=frozenset({"ann"}))) == 2
        assert await of(log).forget(Whose(principals=frozenset())) == 0
        assert await of(log).forget(Whose(namespace="other")) == 1
        assert [await of(log).find(each.id) is not None for each in jobs] == [
            False,
            False,
            True,
            False,
        ]
        assert await of(log).forget(Whose(session="s")) == 1
