"""The journal of exchanges that have ended: what a store need not have. A test of what yours has
not is passed over."""

import dataclasses
from typing import Any

import pytest

from mcp_persist_middleware.log.journal import new_id
from mcp_persist_middleware.model import ExchangeOutcome
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.store import EventLog, Journal, JournalEntry, Owner, Sought, Whose

_BEGAN = 1_000_000.0
_ODD = 'a\0b\N{SNOWMAN}\uffff"; DROP TABLE x; --'


def of(log: EventLog) -> Journal:
    """The journal of a store that has one."""
    if log.journal is None:
        pytest.skip("the store has no journal")
    return log.journal


def entry(number: int = 0, **more: Any) -> JournalEntry:
    """An exchange that ended so many seconds after the first."""
    owner = Owner(*(more.pop(name, told) for name, told in _OWNER.items()))
    made = JournalEntry(
        id=new_id(_BEGAN + number),
        began=_BEGAN + number - 0.25,
        first_event=0.125,
        duration=0.25,
        method="tools/call",
        tool="add",
        version="2025-11-25",
        outcome=ExchangeOutcome.OK,
        error="",
        size=1234,
        resumes=2,
        stream=new_stream_id(),
        owner=owner,
        worker="one",
        trace="0af7651916cd43dd8448eb211c80319c",
        params=b'{"a":1}',
    )
    return dataclasses.replace(made, **more)


_OWNER = {"namespace": "default", "path": "/mcp", "session": "s", "principal": "ann"}


async def ids(journal: Journal, **sought: Any) -> list[str]:
    """The entries that are meant, the newest first."""
    return [each.id for each in await journal.find(Sought(**sought), 100)]


class Journals:
    """The journal of exchanges that have ended."""

    async def test_an_entry_is_read_as_it_was_written_on_every_worker(
        self, log: EventLog, other: EventLog
    ) -> None:
        plain = entry(1)
        bare = entry(2, first_event=None, tool="", stream=b"", trace="", params=b"", version="")
        odd = entry(3, tool=_ODD, method=_ODD, error=_ODD, session=_ODD, path=_ODD, principal=_ODD)
        large = entry(4, size=1 << 60, duration=1e9, params=b"\0\xff" * 5000)
        await of(log).write([plain, bare, odd, large])
        assert await of(other).find(Sought(), 10) == [large, odd, bare, plain]

    async def test_many_entries_are_written_and_found_page_by_page(self, log: EventLog) -> None:
        journal, written = of(log), [entry(number) for number in range(150)]
        await journal.write(written)
        found: list[JournalEntry] = []
        while page := await journal.find(Sought(), 64, before=found[-1].id if found else ""):
            found += page
        assert found == written[::-1]

    async def test_an_entry_that_is_written_again_stays_as_it_is(self, log: EventLog) -> None:
        journal, first = of(log), entry(1)
        await journal.write([first])
        await journal.write([dataclasses.replace(first, tool="other"), entry(2)])
        await journal.write([])
        assert [each.tool for each in await journal.find(Sought(), 10)] == ["add", "add"]

    async def test_what_is_meant_is_found_and_nothing_else(self, log: EventLog) -> None:
        journal = of(log)
        mine = entry(5)
        others = [
            entry(1, tool="sub"),
            entry(2, outcome=ExchangeOutcome.TOOL_ERROR),
            entry(3, method="initialize", tool=""),
            entry(4, session="t"),
            entry(6, namespace="other"),
            entry(7, duration=2.0),
        ]
        await journal.write([mine, *others])
        assert await ids(journal, tool="sub") == [others[0].id]
        assert await ids(journal, outcome="tool_error") == [others[1].id]
        assert await ids(journal, method="initialize") == [others[2].id]
        assert await ids(journal, session="t") == [others[3].id]
        assert await ids(journal, namespace="other") == [others[4].id]
        assert await ids(journal, slow=2.0) == [others[5].id]
        assert await ids(journal, after=mine.id) == [others[5].id, others[4].id]
        assert await ids(journal, tool="sub", slow=1.0) == []

    async def test_what_is_old_goes_first_and_what_is_beyond_the_most(self, log: EventLog) -> None:
        journal, written = of(log), [entry(number) for number in range(10)]
        await journal.write(written)
        assert await journal.purge(_BEGAN, 10, 100) == 0
        assert await journal.purge(_BEGAN + 4, 10, 3) == 3
        assert await ids(journal) == [each.id for each in written[:2:-1]]
        assert await journal.purge(_BEGAN + 4, 10, 3) == 1
        assert await journal.purge(_BEGAN, 2, 3) == 3
        assert await journal.purge(_BEGAN, 2, 3) == 1
        assert await ids(journal) == [each.id for each in written[:-3:-1]]
        assert await journal.purge(_BEGAN + 100, 2, 100) == 2

    async def test_what_is_somebodys_is_removed_and_nothing_else(self, log: EventLog) -> None:
        journal = of(log)
        ann, ben = entry(1), entry(2, principal="ben", session="t", namespace="other")
        await journal.write([ann, ben])
        assert await journal.forget(Whose(principals=frozenset({"cid"}))) == 0
        assert await journal.forget(Whose(principals=frozenset({"ann"}))) == 1
        assert await ids(journal) == [ben.id]
        assert await journal.forget(Whose(session="t", namespace="default")) == 0
        assert await journal.forget(Whose(session="t")) == 1
        assert await ids(journal) == []
