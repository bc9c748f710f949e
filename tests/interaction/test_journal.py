"""The journal has a row for each exchange that has ended, and nobody waits for it."""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from mcp_persist_middleware import Persistence, PersistMiddleware, StoreError
from mcp_persist_middleware.journal import retention, writer
from mcp_persist_middleware.journal.retention import JournalRetention
from mcp_persist_middleware.journal.writer import JournalWriter
from mcp_persist_middleware.log.journal import Journal, JournalEntry, Sought
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import ExchangeOutcome, FinishedExchange, Owner
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.testing import MemoryLog, Shelf
from mcp_persist_middleware.testing.contract.cases.journal import entry
from mcp_persist_middleware.testing.memory import MemoryJournal
from tests.support.scripted import Call, Scripted, persisted, serving, until
from tests.support.session import MODERN, RawSession, last_id
from tests.support.stores import BESIDE, STORES

EVERYTHING = Sought()
OWNER = Owner("default", "/mcp", "s", "ann")


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended is written at once."""
    monkeypatch.setattr(writer, "_LINGER", 0.01)
    monkeypatch.setattr(writer, "_FIRST_PAUSE", 0.01)


async def rows(persistence: Persistence, count: int) -> Sequence[JournalEntry]:
    """So many, when they are written; the newest first."""
    journal = (await access_to(persistence).context()).log.journal
    assert journal is not None
    async with asyncio.timeout(10):
        while len(found := await journal.find(EVERYTHING, 1000)) < count:
            await asyncio.sleep(0.01)
    assert len(found) == count
    return found


async def quick(call: Call) -> None:
    await call.head()
    await call.progress(1)
    await call.result()


async def wrong(call: Call) -> None:
    result = {"content": [], "isError": True}
    await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": result})


async def answered(session: RawSession, tool: str, **arguments: Any) -> None:
    response = await session.call(tool, **arguments)
    await response.body()
    response.close()


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25", MODERN])
async def test_each_exchange_of_every_era_is_a_row(tmp_store: str, version: str) -> None:
    app = Scripted(quick=quick, wrong=wrong)
    async with persisted(app, tmp_store, journal=True) as (port, persistence):
        session = await RawSession.open(port, version, extra={"authorization": "Bearer ann"})
        await answered(session, "quick")
        await answered(session, "wrong")
        begun = [] if version == MODERN else ["initialize"]
        failed, well, *first = await rows(persistence, 2 + len(begun))
        worker = (await access_to(persistence).context()).member.name
    assert [each.method for each in first] == begun
    assert (well.method, well.tool, well.version) == ("tools/call", "quick", version)
    assert (well.outcome, well.error, well.worker, well.params) == ("ok", "", worker, b"")
    assert well.stream
    assert well.first_event is not None
    assert 0 <= well.first_event <= well.duration < 10
    assert 100 < well.size < 1000
    assert well.owner.principal
    assert "ann" not in well.owner.principal
    assert (failed.tool, failed.outcome, failed.stream) == ("wrong", "tool_error", b"")
    assert failed.owner == well.owner


@pytest.mark.parametrize("name", ["postgres+redis", "memory"])
async def test_rows_are_written_on_every_store(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = (STORES | BESIDE)[name](tmp_path, request.getfixturevalue)
    given = store.settings | {"journal": True}
    persistence = Persistence(given.pop("url", None), **given)
    async with serving(PersistMiddleware(Scripted(quick=quick), persistence=persistence)) as port:
        session = await RawSession.open(port)
        await answered(session, "quick")
        well, first = await rows(persistence, 2)
    assert (first.method, well.tool, well.outcome) == ("initialize", "quick", "ok")
    assert well.owner.session == session.session_id


async def test_without_the_setting_nothing_is_noted_or_looked_at(tmp_store: str) -> None:
    async with persisted(Scripted(quick=quick), tmp_store) as (port, persistence):
        session = await RawSession.open(port)
        await answered(session, "quick")
        context = await access_to(persistence).context()
        assert context.log.journal is not None
        await asyncio.sleep(0.05)
        assert await context.log.journal.find(EVERYTHING, 10) == []


async def test_of_the_parameters_those_are_kept_that_are_allowed(tmp_store: str) -> None:
    allowed = {"quick": ["path"], "wrong": ["other"]}
    app = Scripted(quick=quick, wrong=wrong)
    async with persisted(app, tmp_store, journal=True, journal_params=allowed) as (port, kept):
        session = await RawSession.open(port)
        await answered(session, "quick", path="/etc", password="hunter2")
        await answered(session, "wrong", path="/etc")
        refused, well, _ = await rows(kept, 3)
    assert (json.loads(well.params), refused.params) == ({"path": "/etc"}, b"")


async def test_parameters_are_encrypted_with_what_else_is(tmp_store: str) -> None:
    given = {"journal": True, "journal_params": ["path"], "encryption_keys": {"one": b"1" * 32}}
    async with persisted(Scripted(quick=quick), tmp_store, **given) as (port, persistence):
        session = await RawSession.open(port)
        await answered(session, "quick", path="/etc/secret")
        well, _ = await rows(persistence, 2)
    assert json.loads(well.params) == {"path": "/etc/secret"}
    with contextlib.closing(sqlite3.connect(make_url(tmp_store).database or "")) as file:
        (stored,) = file.execute("SELECT params FROM mcp_journal WHERE tool = 'quick'").fetchone()
    assert b"secret" not in stored
    assert b"one" in stored


async def test_how_often_a_client_came_back_is_counted(tmp_store: str) -> None:
    go_on = asyncio.Event()

    async def held(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await go_on.wait()
        await call.result()

    async with persisted(Scripted(held=held), tmp_store, journal=True) as (port, persistence):
        session = await RawSession.open(port)
        response = await session.call("held")
        last = last_id(await response.take(1))
        response.close()
        again = await session.get(last)
        go_on.set()
        await again.body()
        again.close()
        call, _ = await rows(persistence, 2)
    assert (call.tool, call.outcome, call.resumes) == ("held", "ok", 1)


async def test_what_waits_at_the_end_is_written(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_LINGER", 60.0)
    async with persisted(Scripted(quick=quick), tmp_store, journal=True) as (port, _):
        session = await RawSession.open(port)
        await answered(session, "quick")
    with contextlib.closing(sqlite3.connect(make_url(tmp_store).database or "")) as file:
        assert file.execute("SELECT count(*) FROM mcp_journal").fetchone() == (2,)


class Failing(MemoryJournal):
    """Refuses so many writes, and takes them all the same where it says so."""

    def __init__(self, shelf: Shelf, times: int, *, takes: bool = False) -> None:
        super().__init__(shelf)
        self.times, self.takes = times, takes
        self.tried = 0

    async def write(self, entries: Sequence[JournalEntry]) -> None:
        self.tried += 1
        if self.tried > self.times or self.takes:
            await super().write(entries)
        if self.tried <= self.times:
            raise StoreError(url="here", reason="it is tired")


def finished(number: int = 0, **more: Any) -> FinishedExchange:
    said = ("tools/call", f"t{number}", "2025-11-25", ExchangeOutcome.OK, "")
    made = FinishedExchange(*said, 0.0, 0.1, 0.2, 10, 20, OWNER, b"s" * 16, "00-ab-cd-01")
    return made._replace(**more)


async def told(journal: Journal) -> list[str]:
    return [each.tool for each in await journal.find(EVERYTHING, 20_000)]


@pytest.mark.parametrize("takes", [True, False])
async def test_what_the_store_refuses_is_written_later_and_once(takes: bool) -> None:
    journal = Failing(Shelf(), 3, takes=takes)
    made = JournalWriter(journal, 1.0, "one")
    running = asyncio.create_task(made.run())
    made.note(finished(1))
    await until(lambda: journal.tried == 2)
    made.note(finished(2))
    await until(lambda: journal.tried >= 4 and not made._waiting and not made._batch)
    assert sorted(await told(journal)) == ["t1", "t2"]
    running.cancel()


async def test_a_store_that_is_away_costs_entries_and_a_line_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "MOST_WAITING", 5)
    journal = Failing(Shelf(), 1)
    made = JournalWriter(journal, 1.0, "one")
    for number in range(8):
        made.note(finished(number))
    assert len(made._waiting) == 5
    assert [r.getMessage() for r in caplog.records if "MPM-JOURNAL-01" in r.getMessage()]
    await made.aclose()
    assert await told(journal) == []
    await made.aclose()
    assert len(await told(journal)) == 5


async def test_a_store_that_raises_loses_that_batch_and_the_next_is_written(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Wrong(MemoryJournal):
        async def write(self, entries: Sequence[JournalEntry]) -> None:
            if entries[0].tool == "t1":
                raise ZeroDivisionError
            await super().write(entries)

    journal = Wrong(Shelf())
    made = JournalWriter(journal, 1.0, "one")
    made.note(finished(1))
    await made.aclose()
    made.note(finished(2))
    await made.aclose()
    assert await told(journal) == ["t2"]
    assert "MPM-JOURNAL-01" in caplog.text


async def test_what_a_client_names_is_cut_and_is_text() -> None:
    journal = MemoryJournal(Shelf())
    made = JournalWriter(journal, 1.0, "one")
    made.note(
        finished(name="\ud800" + "x" * 1000, version="v" * 100, trace="00-" + "a" * 32 + "-b")
    )
    await made.aclose()
    (written,) = await journal.find(EVERYTHING, 1)
    assert written.tool == "?" + "x" * 255
    assert (len(written.version), written.trace) == (32, "a" * 32)
    assert written.began == pytest.approx(journal.now() - 0.2, abs=5)


async def test_nothing_is_written_of_who_was_forgotten_while_a_call_ran() -> None:
    journal = MemoryJournal(Shelf())
    made = JournalWriter(journal, 1.0, "one")
    ben = Owner("default", "/mcp", "s", "ben")
    made.note(finished(1))
    made.note(finished(2, owner=ben))
    await made.forget(Whose(principals=frozenset({"ann"})))
    made.note(finished(3, lasted=100.0))
    made.note(finished(4, lasted=100.0, owner=ben))
    await asyncio.sleep(0.01)
    made.note(finished(5, lasted=0.0))
    await made.aclose()
    assert sorted(await told(journal)) == ["t2", "t4", "t5"]


async def test_what_is_on_its_way_is_there_before_it_is_erased() -> None:
    class Slow(MemoryJournal):
        go_on = asyncio.Event()

        async def write(self, entries: Sequence[JournalEntry]) -> None:
            await self.go_on.wait()
            await super().write(entries)

    journal = Slow(Shelf())
    made = JournalWriter(journal, 10.0, "one")
    made.note(finished(1))
    writing = asyncio.create_task(made.aclose())
    await until(lambda: made._batch)
    forgetting = asyncio.create_task(made.forget(Whose(principals=frozenset({"ann"}))))
    await asyncio.sleep(0.01)
    assert not forgetting.done()
    journal.go_on.set()
    await asyncio.gather(writing, forgetting)
    assert await told(journal) == ["t1"]


async def test_forgetting_somebody_erases_their_rows(tmp_store: str) -> None:
    given: Any = {"principal": lambda c: c.headers.get("x-user"), "journal": True}
    async with persisted(Scripted(quick=quick), tmp_store, **given) as (port, persistence):
        for user in ("ann", "ben"):
            session = await RawSession.open(port, extra={"x-user": user})
            await answered(session, "quick")
        await rows(persistence, 4)
        forgotten = await persistence.forget(principal="ann")
        assert forgotten.journal == 2
        await rows(persistence, 2)
        assert ("journal", 2) in {(d.kind, d.count) for d in await persistence.deletions()}


async def test_a_store_without_a_journal_says_so_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Bare(MemoryLog):
        journal = None  # type: ignore[assignment]

    shelf = Shelf()
    for make, said in ((Bare, 1), (MemoryLog, 0)):
        caplog.clear()
        persistence = Persistence(log=lambda _, make=make: make(shelf), journal=True)
        await access_to(persistence).context()
        await persistence.aclose()
        lines = [r for r in caplog.records if r.getMessage().startswith("MPM-JOURNAL-03")]
        assert [r.levelno for r in lines] == [logging.WARNING] * said


async def test_rows_go_when_their_time_is_over_whether_more_are_written_or_not() -> None:
    shelf = Shelf()
    log = MemoryLog(shelf)
    settings = Settings.load({"log": lambda _: log, "journal_ttl": "1h", "max_journal_rows": 3}, {})
    now = log.now()
    await log.open("one")
    written = [entry(now - 1_000_000 - age) for age in (5000, 4000, 30, 20, 10, 0)]
    await log.journal.write(written)
    await JournalRetention(log, settings).purge()
    assert {each.id for each in await log.journal.find(EVERYTHING, 10)} == {
        each.id for each in written[3:]
    }
    assert [(d.kind, d.count) for d in await log.deletions(5)] == [("journal", 3)]
    await log.aclose()


async def test_what_a_round_has_removed_before_the_store_failed_is_told_by_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "_STEP", 2)
    log = MemoryLog(Shelf())
    await log.open("one")
    await log.journal.write([entry(n) for n in range(5)])
    purge, steps = MemoryJournal.purge, 0

    async def failing(journal: MemoryJournal, until: float, most: int, limit: int) -> int:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise StoreError(url="x", reason="it is away")
        return await purge(journal, until, most, limit)

    monkeypatch.setattr(MemoryJournal, "purge", failing)
    rounds = JournalRetention(log, Settings.load({"url": "x.db", "journal_ttl": 60}))
    with pytest.raises(StoreError):
        await rounds.purge()
    await rounds.purge()
    assert sum(each.count for each in await log.deletions(9)) == 5
    await rounds.purge()
    assert sum(each.count for each in await log.deletions(9)) == 5
