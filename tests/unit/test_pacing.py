"""Commits wait for each other only where that saves their readers something."""

import pytest

from mcp_persist_middleware.log import pacing
from mcp_persist_middleware.log.pacing import Pacing
from mcp_persist_middleware.log.queue import Batch
from mcp_persist_middleware.model import EventKind
from tests.contract.lanes import FRAME, fresh


class Clock:
    """A monotonic clock that stands still."""

    now = 100.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of pacing."""
    made = Clock()
    monkeypatch.setattr(pacing, "time", made)
    return made


def batch(*streams: object, events: int) -> Batch:
    """So many events of each of these."""
    made: Batch = []
    for stream in streams:
        for _ in range(events):
            stream.add(EventKind.NOISE, FRAME)
        write = stream.next_write(events)
        stream.commit(write)
        made.append((stream, write))
    return made


def test_events_of_many_streams_of_each_one_now_and_then_do_not_wait(clock: Clock) -> None:
    paced, streams = Pacing(), [fresh() for _ in range(64)]
    for _ in range(3):
        paced.begin(batch(*streams, events=1))
        assert paced.left <= 0
        clock.now += 0.05


def test_events_of_one_stream_that_come_fast_go_together(clock: Clock) -> None:
    paced, stream = Pacing(), fresh()
    paced.begin(batch(stream, events=4))
    clock.now += 0.001
    paced.begin(batch(stream, events=4))
    assert paced.left == pytest.approx(0.002)
    paced.begin(batch(stream, events=1000))
    assert paced.left == pytest.approx(0.01)
