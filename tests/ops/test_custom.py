"""A store of somebody else's as an end of a copy."""

from dataclasses import replace
from typing import Any

import pytest

from mcp_persist_middleware.errors import CopyError, StoreIncompleteError
from mcp_persist_middleware.model import SessionStreamState
from mcp_persist_middleware.ops.copy import compare, copy, records
from mcp_persist_middleware.stores.sql.schema import tables
from mcp_persist_middleware.testing import MemoryLog, Shelf
from mcp_persist_middleware.testing.contract.builders import add, events, new, record, session
from tests.ops.conftest import New
from tests.ops.filled import FAR, Given, content, ended, fill, worker
from tests.ops.test_copy import StopError


def custom() -> Given:
    """The settings of a store of somebody else's."""
    shelf = Shelf()
    return {"log": lambda settings: MemoryLog(shelf)}


@pytest.mark.parametrize("way", ["into", "out of"])
async def test_a_custom_store_is_copied_as_any_other(way: str, new_store: New) -> None:
    source, target = custom(), new_store("sqlite")
    if way == "into":
        source, target = target, source
    async with worker(source) as log:
        streams = [*await fill(log)]
    done = await copy(source, target, verify=True)
    assert done.comparison is not None
    assert done.comparison.ok
    async with worker(source) as log:
        await log.append([add(streams[3], *events(6, 2), ending=ended(7))])
        await log.append([new(late := record(), *events(1, 3))])
        streams.append(late)
    again = await copy(source, target, verify=True)
    assert again.events == 5
    assert again.comparison is not None
    assert again.comparison.ok
    assert await content(target, streams) == await content(source, streams)
    with pytest.raises(CopyError, match="is not an empty store"):
        await copy(source, target)


async def test_a_copy_into_a_custom_store_may_be_stopped_anywhere(
    new_store: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = new_store("sqlite"), custom()
    async with worker(source) as log:
        streams = await fill(log, 8, 7)
    monkeypatch.setattr("mcp_persist_middleware.ops.copy.copying.MAX_EVENTS", 4)
    apply, steps = MemoryLog.append, 0

    async def stopped(self: MemoryLog, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        done = await apply(self, batch)
        if steps % 5 == 0:
            raise StopError
        return done

    stops = 0
    with monkeypatch.context() as patch:
        patch.setattr(MemoryLog, "append", stopped)
        for _ in range(200):
            try:
                await copy(source, target)
            except StopError:
                stops += 1
                with pytest.raises(StoreIncompleteError):
                    async with worker(target):
                        pass
            else:
                break
    assert stops > 3
    found = await compare(source, target)
    assert found.ok
    assert found.checksums[0] == found.checksums[1]
    assert await content(target, streams) == await content(source, streams)


async def test_when_a_session_began_goes_along_either_way(new_store: New) -> None:
    source, there, back = custom(), new_store("sqlite"), custom()
    made = replace(session(expires_at=FAR), began_at=5.0)
    async with worker(source) as log:
        assert await log.sessions.create(made)
    await copy(source, there)
    await copy(there, back)
    for store in (there, back):
        async with worker(store) as log:
            assert await log.sessions.find(made.key) == made


def test_each_column_of_a_table_has_its_part_of_a_record() -> None:
    known = tables("")
    state = SessionStreamState(turn=0, worker="", stream=b"", sequence=0)
    assert {*records.stream_row(record())} == {*known.stream.c.keys()}
    assert {*records.session_row(session(), state)} == {*known.session.c.keys()}
