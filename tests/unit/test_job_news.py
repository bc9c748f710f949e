"""What a job says while its state is looked up wakes whoever waits for it."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcp_persist_middleware.model import EventKind
from mcp_persist_middleware.tasks import state
from mcp_persist_middleware.tasks.state import JobState, JobStatus
from tests.contract.lanes import FRAME, fresh


async def test_progress_that_is_committed_during_the_look_is_not_left_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream, looks = fresh(), 0

    async def look(*_: object) -> JobState:
        nonlocal looks
        looks += 1
        if looks == 1:
            # The store has answered, and then the event is committed.
            stream.add(EventKind.NOISE, FRAME)
            stream.commit(stream.next_write(10))
            return known
        return JobState(JobStatus.WORKING, 1.0, "half of it")

    monkeypatch.setattr(state, "look", look)
    known = JobState(JobStatus.WORKING, 1.0)
    writer = SimpleNamespace(live={stream.record.id: stream})
    context, job = SimpleNamespace(writer=writer), SimpleNamespace(stream=stream.record.id)
    began = time.monotonic()
    found = await asyncio.wait_for(state.wait(cast(Any, context), cast(Any, job), known, 3), 10)
    assert found.message == "half of it"
    assert time.monotonic() - began < 1
