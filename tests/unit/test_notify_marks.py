"""What NOTIFY says of a stream: how far it is, to whoever asks just then too, and never less than
happened."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.model import HighWater
from mcp_persist_middleware.wakeups import payloads
from mcp_persist_middleware.wakeups import postgres as module
from mcp_persist_middleware.wakeups.postgres import Notifications

TOPIC = b"s" * 16


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A time that passes when it is told to."""
    now = SimpleNamespace(at=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.at))
    return now


def notifications() -> Notifications:
    connect: Any = None
    return Notifications("channel", connect, 1.0)


def test_who_asks_again_is_told_how_far_the_stream_is(clock: SimpleNamespace) -> None:
    """And need not look for what was told to it when it came."""
    told = notifications()
    told.publish([TOPIC])
    for number in range(1, 10):
        clock.at += 1.0
        told.publish([TOPIC], {TOPIC: HighWater(1, number)})
    told._want([TOPIC])
    assert told._telling == {TOPIC: HighWater(1, 9)}


def test_who_asks_just_after_something_else_looks_for_all_of_it(clock: SimpleNamespace) -> None:
    told = notifications()
    told.publish([TOPIC])
    clock.at += 1.0
    told.publish([TOPIC], {TOPIC: HighWater(1, 1)})
    clock.at += 1.0
    told._want([TOPIC])
    assert told._telling == {TOPIC: None}


def test_what_is_told_together_is_told_of_all_of_it(clock: SimpleNamespace) -> None:
    told = notifications()
    told._want([TOPIC])
    for mark in (HighWater(1, 1), HighWater(1, 3), HighWater(1, 2)):
        told.publish([TOPIC], {TOPIC: mark})
    assert told._telling == {TOPIC: HighWater(1, 3)}
    told.publish([TOPIC])
    told.publish([TOPIC], {TOPIC: HighWater(1, 4)})
    assert told._telling == {TOPIC: None}
    clock.at += 100
    told._want([TOPIC])
    assert told._telling == {TOPIC: None}, "what was not sent yet stays"


marks = st.builds(HighWater, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))


@given(st.dictionaries(st.binary(min_size=1, max_size=64), st.none() | marks, max_size=300))
def test_what_is_written_is_read(said: dict[bytes, HighWater | None]) -> None:
    topics: list[bytes] = []
    told: dict[bytes, HighWater] = {}
    names = (payloads.named(*each) for each in said.items())
    for payload in payloads.written(payloads.TELL, names):
        assert len(payload) < 8000
        kind, some, marked = payloads.read(payload)
        assert kind == payloads.TELL
        topics += some
        told |= marked
    assert topics == list(said)
    assert told == {topic: mark for topic, mark in said.items() if mark is not None}


@given(st.text(max_size=60))
def test_what_somebody_else_says_is_refused_or_harmless(payload: str) -> None:
    try:
        payloads.read(payload)
    except ValueError:
        return
