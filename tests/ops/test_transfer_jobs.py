"""Jobs in lines of JSON, with the sessions and streams that they are of."""

import dataclasses
import json
import os
from typing import Any

import pytest

from mcp_persist_middleware.model import JobRecord, Owner
from mcp_persist_middleware.ops.copy.rows import Selection
from mcp_persist_middleware.ops.transfer import import_
from mcp_persist_middleware.ops.transfer.lines import ExportFileError
from mcp_persist_middleware.testing.contract.cases.jobs import BOUNDS, CREATED, HERE
from tests.ops.conftest import New
from tests.ops.filled import fill, worker
from tests.ops.test_copy_jobs import KEYS, beside, fill_beside, make
from tests.ops.test_custom import custom
from tests.ops.test_transfer import exported, named


@pytest.mark.parametrize("to", ["sqlite", "postgres", "custom"])
async def test_jobs_are_exported_in_the_clear_and_imported_once(to: str, new_store: New) -> None:
    source = new_store("sqlite") | {"encryption_keys": KEYS}
    target = custom() if to == "custom" else new_store(to)
    async with worker(source) as log:
        await fill_beside(log)
    lines = await exported(source)
    told = named(lines, "job")
    assert len(told) == 3
    assert b"tools/call" in b"".join(lines)
    done = await import_(lines, target)
    assert (done.streams, done.jobs, done.skipped) == (3, 3, 0)
    assert (await beside(target))[0] == (await beside(source))[0]
    again = await import_(lines, target)
    assert (again.streams, again.jobs, again.skipped) == (0, 0, 6)


async def test_a_session_a_stream_or_a_namespace_comes_with_its_jobs(new_store: New) -> None:
    store = new_store("sqlite")
    async with worker(store) as log:
        await fill(log)
        await fill_beside(log)
        mine = await make(log, 5, owner=Owner("other", "/mcp", "s", "ann"))

    async def jobs(**only: Any) -> list[str]:
        return [each["id"] for each in named(await exported(store, Selection(**only)), "job")]

    for only in ({"namespace": "other"}, {"session": "s"}, {"stream": mine.stream}):
        assert await jobs(**only) == [mine.id.hex()]
    assert await jobs(namespace="none") == []


@pytest.mark.parametrize("to", ["sqlite", "postgres", "custom"])
async def test_a_key_that_is_given_in_the_store_stays_with_its_job(to: str, new_store: New) -> None:
    source, target = new_store("sqlite"), custom() if to == "custom" else new_store(to)
    async with worker(source) as log:
        theirs = await make(log, 1, key="k" * 64)
        same = await make(log, 2)
    async with worker(target) as log:
        ours = await make(log, 3, key="k" * 64)
        assert log.jobs is not None
        assert await log.jobs.create(changed := _worked(same), *BOUNDS) is CREATED
    done = await import_(await exported(source), target)
    assert (done.streams, done.jobs, done.skipped) == (2, 0, 2)
    async with worker(target) as log:
        assert log.jobs is not None
        assert await log.jobs.find_key(HERE, "k" * 64) == ours
        assert await log.jobs.find(theirs.id) is None
        assert await log.jobs.find(same.id) == changed


def _worked(job: JobRecord) -> JobRecord:
    return dataclasses.replace(job, round=3)


async def test_under_new_ids_a_job_has_no_key_and_leads_to_the_new_stream(new_store: New) -> None:
    store = new_store("sqlite")
    async with worker(store) as log:
        first = await make(log, 1, key="k" * 64, inputs=os.urandom(9))
    lines = await exported(store)
    done = await import_(lines, store, renew=True)
    assert (done.streams, done.jobs) == (1, 1)
    async with worker(store) as log:
        assert log.jobs is not None
        assert await log.jobs.find_key(HERE, "k" * 64) == first
        renewed, _ = sorted(
            await log.jobs.list(None, b"", 9), key=lambda found: found.id == first.id
        )
        assert (renewed.key, renewed.inputs) == ("", first.inputs)
        assert renewed.id[:6] == first.id[:6]
        assert await log.find(renewed.stream) is not None
        assert renewed.stream != first.stream


async def test_a_job_that_is_none_is_refused_by_its_line(new_store: New) -> None:
    source, target = new_store("sqlite"), new_store("sqlite")
    async with worker(source) as log:
        await make(log)
    head, stream, job, _ = await exported(source)
    for spoiled in ({"id": "00"}, {"face": "none"}):
        told = json.loads(job)
        line = json.dumps({"job": told["job"] | spoiled}).encode() + b"\n"
        with pytest.raises(ExportFileError, match="Line 3"):
            await import_([head, stream, line], target)
