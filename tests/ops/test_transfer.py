"""Lines of JSON out of a store and into another one, and a backup of a file."""

import dataclasses
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware.errors import CopyError
from mcp_persist_middleware.ops.backup import backup
from mcp_persist_middleware.ops.copy import compare
from mcp_persist_middleware.ops.copy.rows import Selection
from mcp_persist_middleware.ops.transfer import export, import_
from mcp_persist_middleware.ops.transfer.lines import ExportFileError
from mcp_persist_middleware.store import Event, EventKind
from mcp_persist_middleware.testing.contract.builders import ALL, add, events, new, record
from tests.contract.sqlite import direct
from tests.ops.conftest import New
from tests.ops.filled import Given, content, fill, worker

Both = tuple[Given, Given]


async def exported(store: Given, only: Selection | None = None) -> list[bytes]:
    """The lines of an export."""
    written: list[bytes] = []
    await export(store, written.append, only=only or Selection())
    return b"".join(written).splitlines(keepends=True)


def named(lines: list[bytes], what: str) -> list[Any]:
    """What stands in the lines of a kind."""
    return [found[what] for line in lines if what in (found := json.loads(line))]


async def test_what_is_exported_and_imported_is_the_same(both: Both) -> None:
    source, target = both
    source = source | {"encryption_keys": {"k": os.urandom(32)}}
    async with worker(source) as log:
        streams = await fill(log)
        raw = record()
        await log.append([new(raw, Event(1, 1, EventKind.MESSAGE, b"data: \xff\r\n"))])
    lines = await exported(source)
    assert b"tools/call" in b"".join(lines), "it is in the clear"
    done = await import_(lines, target)
    assert (done.sessions, done.streams, done.events, done.skipped) == (2, 7, 34, 0)
    everything = [*streams, raw]
    assert await content(target, everything) == await content(source, everything)
    again = await import_(lines, target)
    assert (again.sessions, again.streams, again.events, again.skipped) == (0, 0, 0, 9)
    assert (await compare(source, target)).ok


async def test_a_session_a_stream_or_a_namespace_can_be_exported_alone(new_store: New) -> None:
    store = new_store("sqlite")
    async with worker(store) as log:
        streams = await fill(log)
        other = record(namespace="other", session="t")
        await log.append([new(other, *events(1, 1))])
    one = await exported(store, Selection(stream=streams[3].id))
    assert [each["id"] for each in named(one, "stream")] == [streams[3].id.hex()]
    assert len(named(one, "event")) == 5
    assert named(one, "session") == []
    place = await exported(store, Selection(namespace="other"))
    assert [each["id"] for each in named(place, "stream")] == [other.id.hex()]
    session = await exported(store, Selection(session="s"))
    assert {each["session"] for each in named(session, "stream")} == {"s"}
    assert [each["id"] for each in named(session, "session")] == ["s"]


async def test_under_new_ids_an_import_stands_beside_what_is_there(new_store: New) -> None:
    store = new_store("sqlite")
    async with worker(store) as log:
        streams = await fill(log)
    lines = await exported(store)
    await import_(lines, store, renew=True)
    both = await exported(store)
    ids = [each["id"] for each in named(both, "stream")]
    assert len({*ids}) == 2 * len(streams)
    assert sorted(ids) == ids
    sessions = {each["id"] for each in named(both, "session")}
    assert len(sessions) == 4
    assert {each["session"] for each in named(both, "stream")} < sessions
    (renewed,) = {id_ for id_ in ids if id_ not in {s.id.hex() for s in streams}} & {
        each["stream"] for each in named(both, "event") if each["sequence"] == 8
    }
    async with worker(store) as log:
        original = await log.read(streams[1].id, 0, *ALL)
        assert await log.read(bytes.fromhex(renewed), 0, *ALL) == original


async def test_an_import_that_was_stopped_goes_on_there(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = both
    async with worker(source) as log:
        streams = await fill(log)
    lines = await exported(source)
    monkeypatch.setattr("mcp_persist_middleware.ops.copy.rows.MAX_EVENTS", 3)
    monkeypatch.setattr("mcp_persist_middleware.ops.transfer.importing._LINES", 4)
    for end in range(3, len(lines), 4):
        with pytest.raises(ExportFileError, match="the file was cut"):
            await import_(lines[:end], target)
    await import_(lines, target)
    assert await content(target, streams) == await content(source, streams)


SPOILED: list[Any] = [
    pytest.param(lambda lines: [], "line 1 .* was cut", id="empty"),
    pytest.param(lambda lines: [b"{}\n", *lines[1:]], "line 1 .* first line", id="another format"),
    pytest.param(lambda lines: [lines[0], b"17\n"], "line 2 .* no JSON object", id="no object"),
    pytest.param(lambda lines: [*lines[:4], *lines[5:]], "not as they were", id="a line is gone"),
    pytest.param(lambda lines: lines[:-1], "was cut", id="no end"),
    pytest.param(
        lambda lines: [lines[0], b'{"stream":{"id":"00"}}\n', *lines[1:]], "line 2", id="no fields"
    ),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILED)
async def test_a_file_that_is_no_whole_export_is_refused_by_its_line(
    spoil: Callable[[list[bytes]], list[bytes]], said: str, new_store: New
) -> None:
    source, target = new_store("sqlite"), new_store("sqlite")
    async with worker(source) as log:
        await fill(log)
    with pytest.raises(ExportFileError, match="(?i)" + said):
        await import_(spoil(await exported(source)), target)


async def test_a_backup_is_the_store_as_it_was_while_its_server_goes_on(
    new_store: New, tmp_path: Path
) -> None:
    store, file = new_store("sqlite"), tmp_path / "backup"
    async with worker(store) as log:
        streams = await fill(log)
        before = [dataclasses.asdict(found) for s in streams if (found := await log.find(s.id))]
        written: list[int] = []
        size = await backup(store, file, report=lambda done, of: written.append(done))
        await log.append([add(streams[3], *events(6, 1))])
    assert written
    assert size == file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600
    assert not file.with_name("backup-wal").exists()
    async with worker({"url": str(file)}) as log:
        found = [dataclasses.asdict(found) for s in streams if (found := await log.find(s.id))]
        assert found == before
        assert len(await log.read(streams[3].id, 0, *ALL)) == 5
    with pytest.raises(CopyError, match="is there already"):
        await backup(store, file)


async def test_a_backup_holds_one_moment_whatever_is_committed_meanwhile(
    new_store: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_persist_middleware.ops.backup._PAGES", 1)
    store, file = new_store("sqlite"), tmp_path / "backup"
    async with worker(store) as log:
        await fill(log)
    path = store["url"].removeprefix("sqlite+aiosqlite:///")
    with direct(Path(path)) as other:

        def commit(done: int, of: int) -> None:
            other.execute("UPDATE mcp_stream SET trace = trace || 'x'")

        await backup(store, file, report=commit)
    with sqlite3.connect(file) as made:
        assert made.execute("SELECT count(*) FROM mcp_stream WHERE trace LIKE '%x'").fetchone() == (
            0,
        )


async def test_a_backup_that_cannot_be_written_names_its_file_and_not_the_store(
    new_store: New, tmp_path: Path
) -> None:
    store, file = new_store("sqlite"), tmp_path / "none" / "backup"
    async with worker(store) as log:
        await fill(log)
    with pytest.raises(CopyError, match=f"the file {file} cannot be written: No such file"):
        await backup(store, file)


async def test_only_sqlite_is_backed_up_by_us(new_store: New, tmp_path: Path) -> None:
    with pytest.raises(CopyError, match="has tools of its own"):
        await backup(new_store("postgres"), tmp_path / "backup")
    with pytest.raises(CopyError, match="there is no store"):
        await backup({"url": str(tmp_path / "none.db")}, tmp_path / "backup")
