"""G1: no event reaches a client before the store has committed it."""

import asyncio
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import worker
from mcp_persist_middleware.model import Outcome, StreamWrite
from mcp_persist_middleware.protocol import event_id
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from tests.support.processes import mcp_server
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession


class GatedLog(SqliteLog):
    """Commits when the test says so."""

    gate = asyncio.Event()
    asked = 0

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        GatedLog.asked += sum(len(write.events) for write in batch)
        await GatedLog.gate.wait()
        return await super().append(batch)


async def test_an_event_waits_for_its_commit(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = worker.make_log

    def gated(settings: Any) -> SqliteLog:
        log = real(settings)
        log.__class__ = GatedLog
        assert isinstance(log, GatedLog)
        return log

    async def count(call: Call) -> None:
        await call.head()
        for value in (1, 2, 3):
            await call.progress(value)
        await call.result()

    monkeypatch.setattr(worker, "make_log", gated)
    GatedLog.gate, GatedLog.asked = asyncio.Event(), 0
    GatedLog.gate.set()
    async with persisted(Scripted(count=count), store) as (port, _):
        session = await RawSession.open(port)
        GatedLog.gate.clear()
        asked = GatedLog.asked
        response = await session.call("count")
        # The application has said all it had to say, and the store has been asked to commit it.
        await until(lambda: GatedLog.asked > asked)
        first = asyncio.create_task(response.take(1))
        done, _ = await asyncio.wait({first}, timeout=0.3)
        assert not done, "an event was visible before its commit"
        GatedLog.gate.set()
        seen = await first + await response.take(3)
    assert [frame.progress for frame in seen] == [1, 2, 3, None]


async def test_what_a_client_has_seen_outlives_a_killed_process(tmp_path: Path) -> None:
    chance, server = random.Random(5), mcp_server(tmp_path)
    for _ in range(6):
        await server.start()
        session = await RawSession.open(server.port)
        seen: list[tuple[str, str]] = []

        async def read(session: RawSession, seen: list[tuple[str, str]]) -> None:
            response = await session.call("count", n=20_000, delay=0)
            async for frame in response.frames():
                if frame.id and frame.data:
                    seen.append((frame.id, frame.data))

        readers = [asyncio.create_task(read(session, seen)) for _ in range(3)]
        wanted = chance.randrange(50, 800)
        await until(lambda seen=seen, wanted=wanted: len(seen) >= wanted)
        await server.kill()
        await asyncio.wait(readers, timeout=10)
        assert all(isinstance(task.exception(), Exception) for task in readers)
        _check(tmp_path / "events.db", seen)


def _check(path: Path, seen: list[tuple[str, str]]) -> None:
    """Every event that was seen is in the file under its number; no number is missing."""
    with sqlite3.connect(path) as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = store.execute("SELECT stream, sequence, epoch, payload FROM mcp_event").fetchall()
    stored = {(stream, sequence, epoch): payload for stream, sequence, epoch, payload in rows}
    for text, data in seen:
        position = event_id.parse(text)
        assert position is not None
        payload = stored[position.stream, position.sequence, position.epoch]
        assert data.encode() in payload
    for stream in {key[0] for key in stored}:
        numbers = sorted(key[1] for key in stored if key[0] == stream)
        assert numbers == list(range(1, len(numbers) + 1))
