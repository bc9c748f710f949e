"""What a copy brings beside streams and sessions: the jobs, by which clients ask for what a call
has answered, and the journal."""

import asyncio
import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any

import pytest

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.journal import JournalEntry, Sought
from mcp_persist_middleware.model import JobRecord, Owner
from mcp_persist_middleware.ops.copy import compare, copy
from mcp_persist_middleware.ops.copy.place import Checkpoint
from mcp_persist_middleware.ops.copy.rows import Beside, Changes
from mcp_persist_middleware.protocol import job_id
from mcp_persist_middleware.store import Whose
from mcp_persist_middleware.testing import MemoryLog, Shelf
from mcp_persist_middleware.testing.contract.builders import new, record
from mcp_persist_middleware.testing.contract.cases.jobs import BOUNDS, CREATED, HERE, job
from mcp_persist_middleware.testing.contract.cases.journal import entry
from tests.ops.conftest import New
from tests.ops.filled import Given, ended, fill, worker
from tests.ops.test_copy import StopError, copied
from tests.ops.test_custom import custom

KEYS = {"one": os.urandom(32)}
Both = tuple[Given, Given]


@pytest.fixture(params=["sqlite-postgres", "postgres-sqlite", "sqlite-custom", "custom-sqlite"])
def pair(request: pytest.FixtureRequest, new_store: New) -> Both:
    """A store and one of another kind, of somebody else's too."""
    first, second = [
        custom() if kind == "custom" else new_store(kind) for kind in request.param.split("-")
    ]
    return first, second


async def make(log: EventLog, number: int = 0, **more: Any) -> JobRecord:
    """A job of a stream that has ended."""
    assert log.jobs is not None
    stream = dataclasses.replace(record(), owner=more.get("owner", Owner(*HERE, "", "ann")))
    await log.append([new(stream, ending=ended(0))])
    made = job(log, stream, id=job_id.new(log.now() + number), **more)
    assert await log.jobs.create(made, *BOUNDS) is CREATED
    return made


async def note(log: EventLog, *entries: JournalEntry) -> None:
    """Rows of the journal."""
    assert log.journal is not None
    await log.journal.write(entries)


async def fill_beside(log: EventLog) -> list[JobRecord]:
    """Jobs of each kind, one of which has changed, and a journal."""
    made = [
        await make(log, 1, tool="a\0b\uffff"),
        await make(log, 2, key="k" * 64, arguments="a" * 64),
        await make(log, 3, request=b'{"method":"tools/call"}' * 20),
    ]
    assert log.jobs is not None
    changed = dataclasses.replace(made[2], round=2, inputs=b'{"answers":[1,2]}' * 20)
    assert await log.jobs.change(changed)
    await note(log, *[entry(n, params=b'{"a":"b"}' * 20 * (n % 2)) for n in range(5)])
    return made


async def beside(given: Given) -> tuple[Sequence[Any], Sequence[JournalEntry]]:
    """All jobs, and all of the journal."""
    async with worker(given, "reader") as log:
        assert log.jobs is not None
        assert log.journal is not None
        names = [each.id for each in await log.jobs.list(None, b"", 1000)]
        jobs = [await log.jobs.find(name) for name in names]
        return jobs, await log.journal.find(Sought(), 1000)


async def test_jobs_and_the_journal_are_in_the_new_store_as_they_were(pair: Both) -> None:
    source, target = pair
    source = source | {"compression": "gzip", "compress_min_bytes": 1}
    target = target | {"encryption_keys": KEYS}
    async with worker(source) as log:
        await fill_beside(log)
    before = await beside(source)
    assert [len(found) for found in before] == [3, 5]
    done = await copy(source, target, verify=True)
    assert (done.jobs, done.journal, done.unreadable) == (3, 5, 0)
    assert done.comparison is not None
    assert done.comparison.ok
    assert (done.comparison.jobs, done.comparison.journal) == (3, 5)
    again = await copy(source, target)
    assert (again.jobs, again.journal) == (0, 0)
    assert await beside(target) == before
    async with worker(target) as log:
        assert log.jobs is not None
        assert await log.jobs.find_key(HERE, "k" * 64) is not None
    # Who has no key reads nothing of it.
    without = {name: value for name, value in target.items() if name != "encryption_keys"}
    found = await compare(source, without)
    assert found.different == 3, "a job with a request, and two entries with parameters"


async def test_a_second_run_brings_what_has_changed_of_them(pair: Both) -> None:
    source, target = pair
    async with worker(source) as log:
        assert log.jobs is not None
        first, keyed, changed = await fill_beside(log)
        late = await make(log, 4, expires_at=time.time() + 5)
        await copy(source, target)
        assert await log.jobs.remove([first.id, keyed.id]) == 2
        assert await log.jobs.change(
            dataclasses.replace(changed, revision=2, expires_at=changed.expires_at + 60)
        )
        assert await log.jobs.change(dataclasses.replace(late, expires_at=time.time() - 1))
        # The key of one that went is another's by now.
        again = await make(log, 9, key=keyed.key)
        await note(log, entry(7))
        assert log.journal is not None
        assert await log.journal.purge(entry(1).began, 1000, 1000) > 0
    before = await beside(source)
    done = await copy(source, target, verify=True)
    assert (done.jobs, done.journal) == (2, 1)
    assert done.comparison is not None
    assert done.comparison.ok
    jobs, journal = await beside(target)
    # A journal of somebody else's forgets what is old by itself.
    assert journal[: len(before[1])] == before[1]
    assert len(journal) == len(before[1]) or "log" in target
    assert [found.id for found in jobs] == [again.id, changed.id]
    assert jobs == [found for found in before[0] if found.id != late.id]


async def test_what_was_erased_in_the_old_store_is_erased_in_the_new_one(both: Both) -> None:
    source, target = both
    async with worker(source) as log:
        await fill_beside(log)
        await note(log, entry(owner=Owner("default", "/mcp", "", "bob")))
        await copy(source, target)
        assert log.jobs is not None
        assert log.journal is not None
        ann = Whose(principals=frozenset(["ann"]))
        assert (await log.jobs.forget(ann), await log.journal.forget(ann)) == (3, 5)
        await copy(source, target)
    jobs, journal = await beside(target)
    assert jobs == []
    assert [each.owner.principal for each in journal] == ["bob"]


async def test_a_copy_of_jobs_that_was_stopped_anywhere_goes_on_there(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = both
    async with worker(source) as log:
        for n in range(12):
            await make(log, n, key=f"{n:064}")
        await note(log, *[entry(n) for n in range(12)])
    before = await beside(source)
    monkeypatch.setattr("mcp_persist_middleware.ops.copy.beside._PAGES", dict.fromkeys(Beside, 5))
    steps = stops = jobs = entries = 0
    apply = Checkpoint._apply

    async def stopped(self: Checkpoint, changes: Changes, then: Any) -> None:
        nonlocal steps, jobs, entries
        steps += 1
        if steps % 4 == 0:
            raise StopError
        await apply(self, changes, then)
        kinds = [table.name for table, _ in changes.rows]
        jobs, entries = jobs + kinds.count("JOB"), entries + kinds.count("JOURNAL")

    monkeypatch.setattr(Checkpoint, "_apply", stopped)
    for _ in range(100):
        try:
            await copy(source, target)
        except StopError:
            stops += 1
        else:
            break
    assert stops > 1
    assert (jobs, entries) == (12, 12), "nothing is brought twice"
    assert await beside(target) == before


async def test_follow_takes_what_becomes_of_jobs_and_what_is_noted(both: Both) -> None:
    source, target = both
    async with worker(source) as log:
        assert log.jobs is not None
        await fill(log)
        first, *_ = await fill_beside(log)
        following = asyncio.create_task(copy(source, target, follow=True, verify=True))
        await copied(target, following)
        for n in range(10):
            await make(log, 20 + n)
            await note(log, entry(20 + n))
        assert await log.jobs.change(dataclasses.replace(first, worker="two"))
        assert not following.done()
    done = await following
    assert done.comparison is not None
    assert done.comparison.ok
    assert await beside(target) == await beside(source)


async def test_a_comparison_finds_a_job_and_an_entry_that_lack_or_differ(both: Both) -> None:
    source, target = both
    async with worker(source) as log:
        first, keyed, changed = await fill_beside(log)
    await copy(source, target)
    async with worker(target) as log:
        assert log.jobs is not None
        await log.jobs.remove([first.id, keyed.id])
        # It is another call under the same name.
        assert await log.jobs.create(dataclasses.replace(first, tool="other"), *BOUNDS) is CREATED
        assert log.journal is not None
        await log.journal.purge(entry(4).began, 1000, 1000)
        assert await log.jobs.change(dataclasses.replace(changed, revision=2, round=9))
    found = await compare(source, target)
    assert (found.jobs, found.journal) == (3, 5)
    assert (found.missing, found.different, found.ahead) == (1, 1, 1)
    assert found.names == [
        f"task {job_id.name(keyed.id)} (missing)",
        f"task {job_id.name(first.id)} (different)",
    ], "what retention has taken of a journal is not missing"


async def test_what_the_new_store_has_no_place_for_is_named(new_store: New) -> None:
    class Poor(MemoryLog):
        @property
        def journal(self) -> None:  # type: ignore[override]
            return None

        @property
        def jobs(self) -> None:  # type: ignore[override]
            return None

    shelf = Shelf()
    source, target = new_store("sqlite"), {"log": lambda settings: Poor(shelf)}
    async with worker(source) as log:
        await fill_beside(log)
    done = await copy(source, target, verify=True)
    assert (done.streams, done.jobs, done.journal) == (3, 0, 0)
    assert done.left_behind == ["job", "journal"]
    assert done.comparison is not None
    assert done.comparison.ok


async def test_a_dry_run_counts_them(both: Both) -> None:
    source, target = both
    async with worker(source) as log:
        await fill_beside(log)
    done = await copy(source, target, dry_run=True)
    assert (done.jobs, done.journal) == (3, 5)
