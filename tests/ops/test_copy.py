"""A store that is copied into another one: what goes along, what a stop in between costs, and what
a server on either of them may do meanwhile."""

import asyncio
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import make_url

from mcp_persist_middleware.errors import CopyError, StoreIncompleteError
from mcp_persist_middleware.model import EventKind, SessionKey
from mcp_persist_middleware.ops.copy import Progress, compare, copy
from mcp_persist_middleware.ops.copy.place import Checkpoint
from mcp_persist_middleware.ops.copy.rows import Changes
from mcp_persist_middleware.testing.contract.builders import KEY, add, events, new, record
from tests.ops.conftest import New
from tests.ops.filled import FAR, Given, content, ended, fill, worker

KEYS = {"one": os.urandom(32)}
Both = tuple[Given, Given]


async def test_all_streams_and_sessions_are_in_the_new_store_as_they_were(both: Both) -> None:
    source, target = both
    async with worker(source) as log:
        streams = await fill(log)
    before = await content(source, streams)
    done = await copy(source, target, verify=True)
    assert (done.streams, done.sessions) == (6, 2)
    assert done.comparison is not None
    assert done.comparison.ok
    assert done.comparison.checksums[0] == done.comparison.checksums[1]
    assert await content(target, streams) == before


async def test_payloads_are_written_as_the_new_store_s_settings_say(new_store: New) -> None:
    source = new_store("sqlite") | {"compression": "gzip", "compress_min_bytes": 0}
    target = new_store("sqlite") | {"encryption_keys": KEYS}
    async with worker(source) as log:
        streams = await fill(log)
    before = await content(source, streams)
    done = await copy(source, target, verify=True)
    assert done.comparison is not None
    assert done.comparison.ok
    assert await content(target, streams) == before
    # Who has no key reads nothing of it.
    without = {name: value for name, value in target.items() if name != "encryption_keys"}
    found = await compare(source, without)
    assert found.different == len(streams) + 1


async def test_what_cannot_be_read_here_goes_along_as_it_is(new_store: New) -> None:
    source, target = new_store("sqlite") | {"encryption_keys": KEYS}, new_store("sqlite")
    async with worker(source) as log:
        streams = await fill(log)
    before = await content(source, streams)
    done = await copy({"url": source["url"]}, target)
    assert done.unreadable > 0
    assert await content(target | {"encryption_keys": KEYS}, streams) == before


async def test_a_store_of_an_older_version_is_copied_as_it_is(new_store: New) -> None:
    source, target = new_store("sqlite"), new_store("sqlite")
    async with worker(source) as log:
        streams = await fill(log)
    before = await content(source, streams)
    with closing(sqlite3.connect(make_url(source["url"]).database or "")) as older, older:
        for name in ("deletion", "job", "journal"):
            older.execute(f"DROP TABLE mcp_{name}")
    done = await copy(source, target, verify=True)
    assert (done.jobs, done.journal, done.left_behind) == (0, 0, [])
    assert done.comparison is not None
    assert done.comparison.ok
    assert await content(target, streams) == before


async def test_a_second_run_brings_only_what_has_changed(both: Both) -> None:
    source, target = both
    async with worker(source) as log:
        streams = await fill(log)
        await copy(source, target)
        again = await copy(source, target)
        assert (again.streams, again.events, again.sessions) == (0, 0, 0)
        # An event more, an end, a stream without its noise, a new one, one that is removed.
        longer, over, trimmed, gone = streams[3], streams[5], record(), record(session="leaves")
        noise = events(1, 9, kind=EventKind.NOISE)
        await log.append([new(trimmed, *noise), new(gone, *events(1, 2))])
        # It ended a while ago: what followers may still want is kept.
        await log.append([add(gone, ending=replace(ended(2), ended_at=time.time() - 300))])
        await copy(source, target)
        await log.append([add(longer, *events(6, 2))])
        await log.append([add(over, *events(6, 1), ending=ended(6))])
        await log.append([add(trimmed, *events(10, 1), trim=4)])
        await log.append([new(late := record(), *events(1, 3))])
        await log.expire_session(*_owner(gone))
        await log.purge(time.time(), 1000)
        await log.sessions.delete(KEY, FAR)
        await copy(source, target, verify=True)
    everything = [*streams, gone, trimmed, late]
    before = await content(source, everything)
    done = await copy(source, target, verify=True)
    assert done.comparison is not None
    assert done.comparison.ok
    assert await content(target, everything) == before
    assert before[-4].deleted
    assert before[12:14] == [None, []], "its session was deleted, and it is gone"
    assert [event.sequence for event in before[15]] == [5, 6, 7, 8, 9, 10]


def _owner(stream: Any) -> tuple[str, str, str]:
    owner = stream.owner
    return owner.namespace, owner.path, owner.session


class StopError(Exception):
    """The copy is stopped."""


@pytest.mark.parametrize("chunk", [2, 5])
async def test_a_copy_that_was_stopped_anywhere_goes_on_there(
    both: Both, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = both
    async with worker(source) as log:
        streams = await fill(log, 6, 5)
    before = await content(source, streams)
    monkeypatch.setattr("mcp_persist_middleware.ops.copy.copying.MAX_EVENTS", 4)
    monkeypatch.setattr("mcp_persist_middleware.ops.copy.rows.MAX_EVENTS", 4)
    steps = 0
    apply = Checkpoint._apply

    async def stopped(self: Checkpoint, changes: Changes, then: Any) -> None:
        nonlocal steps
        steps += 1
        if steps % chunk == 0:
            raise StopError
        await apply(self, changes, then)

    monkeypatch.setattr(Checkpoint, "_apply", stopped)
    brought = 0

    def count(progress: Progress) -> None:
        nonlocal brought
        brought = max(brought, progress.events)

    async def stop_and_go() -> int:
        nonlocal brought
        total, stops = 0, 0
        for _ in range(100):
            brought = 0
            try:
                await copy(source, target, report=count)
            except StopError:
                stops += 1
            else:
                break
            finally:
                total += brought
        assert stops > 0
        return total

    # In the first pass, and in one that brings what came after it.
    first = await stop_and_go()
    assert first == sum(len(found) for found in before[1:-4:2]), "no event is brought twice"
    found = await compare(source, target)
    assert found.ok
    assert found.checksums[0] == found.checksums[1]
    async with worker(source) as log:
        await log.append([add(streams[3], *events(6, 9), ending=ended(14))])
        await log.append([new(late := record(), *events(1, 11), ending=ended(11))])
    assert await stop_and_go() == 20
    assert await content(target, [*streams, late]) == await content(source, [*streams, late])


async def test_nobody_serves_a_store_that_is_not_complete(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = both
    async with worker(source) as log:
        await fill(log)

    async def stopped(self: Checkpoint) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "complete", stopped)
        with pytest.raises(StopError):
            await copy(source, target)
    with pytest.raises(StoreIncompleteError, match="is being copied into it"):
        async with worker(target):
            pass
    await copy(source, target)
    async with worker(target):
        pass


async def test_what_a_server_wrote_into_the_new_store_is_never_replaced(both: Both) -> None:
    source, target = both
    async with worker(source) as log:
        streams = await fill(log)
    await copy(source, target)
    async with worker(target, "new") as log:
        await log.append([new(mine := record(), *events(1, 2))])
    with pytest.raises(CopyError, match="a server is or was on it"):
        await copy(source, target)
    done = await copy(source, target, verify=True)
    assert done.comparison is not None
    assert done.comparison.ok
    assert done.streams == 0
    async with worker(target) as log:
        assert await log.find(mine.id) is not None
        assert await log.find(streams[0].id) is not None


async def test_a_store_with_something_in_it_is_not_copied_over(both: Both) -> None:
    source, target = both
    for store in both:
        async with worker(store) as log:
            await fill(log)
    with pytest.raises(CopyError, match="is not an empty store"):
        await copy(source, target)
    with pytest.raises(CopyError, match="are the same store"):
        await copy(source, source)


async def test_a_server_that_opens_the_target_meanwhile_ends_the_copy(new_store: New) -> None:
    source, target = new_store("sqlite"), new_store("sqlite")
    async with worker(source) as log:
        await fill(log)
        following = asyncio.create_task(copy(source, target, follow=True))
        await copied(target, following)
        # Two copies at once: the one that came first is told so.
        other = asyncio.create_task(copy(source, target, follow=True))
        with pytest.raises(CopyError, match="has taken the store"):
            await following
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)


async def copied(target: Given, running: asyncio.Task[Any]) -> None:
    """Return when the first pass has ended."""
    from mcp_persist_middleware.log.mirror import NAME, Mirror
    from mcp_persist_middleware.ops.copy import ends

    async with asyncio.timeout(20):
        while True:
            if running.done():
                await running
            async with ends.maybe_opened(ends.settings_of(target)) as store:
                note = (await store.meta()).get(NAME) if store is not None else None
            if note is not None and Mirror.of(note).passed:
                return
            await asyncio.sleep(0.02)


async def test_a_dry_run_writes_nothing_and_counts(both: Both) -> None:
    source, target = both
    async with worker(source) as log:
        await fill(log)
    done = await copy(source, target, dry_run=True)
    assert (done.streams, done.events, done.sessions) == (6, 33, 2)
    from mcp_persist_middleware.ops.copy import ends

    async with ends.maybe_opened(ends.settings_of(target)) as store:
        assert store is None


async def test_follow_ends_when_the_last_worker_has_left_with_everything_it_wrote(
    both: Both,
) -> None:
    source, target = both
    async with worker(source) as log:
        streams = [*await fill(log)]
        following = asyncio.create_task(copy(source, target, follow=True, verify=True))
        await copied(target, following)
        for n in range(20):
            await log.append([new(late := record(), *events(1, 3))])
            await log.append([add(streams[3], *events(6 + n, 1))])
            streams.append(late)
        await log.sessions.touch([KEY], FAR + 1)
        await log.append([add(streams[5], ending=ended(5))])
        assert not following.done()
    done = await following
    assert done.comparison is not None
    assert done.comparison.ok
    assert done.comparison.checksums[0] == done.comparison.checksums[1]
    assert await content(target, streams) == await content(source, streams)


async def test_expired_streams_and_sessions_stay_behind(both: Both) -> None:
    source, target = both
    async with worker(source) as log:
        streams = await fill(log)
        late = record()
        await log.append([new(late, *events(1, 2))])
        await log.append([add(late, ending=ended(2, expires_at=time.time() - 1))])
        await log.sessions.touch([KEY], time.time() - 1)
        await copy(source, target)
    async with worker(target) as log:
        assert await log.find(late.id) is None
        assert await log.find(streams[0].id) is not None
        assert await log.sessions.find(KEY) is None
        assert await log.sessions.find(SessionKey("default", "/mcp", "gone")) is not None
