"""A worker that is stopped, cut off from its store and killed while another one reads what it
writes, in small: `python -m tests.faults.apart`."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.apart import faults
from tests.support.stores import STORES

LEASE, AWAY = 2.0, 2.5
FAULTS = {
    "postgres": ("cut off", "killed"),
    "postgres+redis": ("stopped", "cut off from SQL"),
}


@pytest.mark.timeout(90)
async def test_a_worker_that_was_apart_leaves_alone_what_was_ended_without_it(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async def one(name: str, chosen: tuple[str, ...]) -> list[str]:
        (directory := tmp_path / name).mkdir()
        store = STORES[name](directory, request.getfixturevalue)
        return await faults(store, directory, LEASE, AWAY, *chosen)

    told = await asyncio.gather(*(one(*each) for each in FAULTS.items()))
    assert [len(each) for each in told] == [2, 2]
