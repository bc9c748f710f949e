"""A worker that is stopped for longer than its lease, in small: `python -m tests.faults.frozen`."""

from pathlib import Path

import pytest

from tests.faults.frozen import frozen

LEASE, STOP = 2.0, 6.0


@pytest.mark.parametrize("mode", ["stateful", "json"])
async def test_a_worker_that_was_stopped_runs_and_writes_nothing_of_what_it_had(
    tmp_path: Path, mode: str
) -> None:
    told = await frozen(tmp_path, mode, LEASE, STOP)
    assert told.answers
