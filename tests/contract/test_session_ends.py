"""How long sessions lasted, told once when they are over, whoever removes them."""

import dataclasses

import pytest

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.testing.contract.builders import session

Ends = list[tuple[float, float, str, str]]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    """What is told."""
    told: Ends = []
    monkeypatch.setattr(telemetry, "tell_session_end", lambda *said: told.append(said))
    return told


async def test_a_session_that_expires_is_told_once_and_a_deleted_one_was_told_before(
    log: EventLog, other: EventLog, ends: Ends
) -> None:
    for name, began_at in (("one", 3.0), ("deleted", 4.0), ("later", 5.0)):
        expires_at = 2000.0 if name == "later" else 10.0
        made = dataclasses.replace(session(name, expires_at=expires_at), began_at=began_at)
        assert await log.sessions.create(made)
    deleted = session("deleted").key
    await log.sessions.delete(deleted, 10.0)
    assert [await each.sessions.purge(13.0, 9) for each in (other, log)] == [2, 0]
    assert ends == [(3.0, 13.0, "2025-11-25", "expired")]
