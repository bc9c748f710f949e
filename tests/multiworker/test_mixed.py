"""Everything at once, in small: what `python -m tests.peers.mixed` does at full size."""

import random
from pathlib import Path

import pytest

from tests.peers.mixed import Size, mixed
from tests.support.stores import STORES, Store

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store."""
    return STORES[request.param](tmp_path, request.getfixturevalue)


async def test_whichever_worker_is_asked_each_call_runs_once_and_is_answered_once(
    store: Store, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    report = await mixed(store, tmp_path, Size(clients=4, calls=10, seed=seed, seconds=40))
    assert not report.faults
    assert report.cuts
    assert report.crossed
