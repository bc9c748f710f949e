"""A worker that is stopped for longer than its lease, in small: `python -m tests.faults.frozen`."""

import asyncio
from pathlib import Path

from tests.faults.frozen import frozen

LEASE, STOP = 2.0, 6.0


async def test_a_worker_that_was_stopped_runs_and_writes_nothing_of_what_it_had(
    tmp_path: Path,
) -> None:
    async def one(mode: str) -> None:
        (directory := tmp_path / mode).mkdir()
        assert (await frozen(directory, mode, LEASE, STOP)).answers

    await asyncio.gather(one("stateful"), one("json"))
