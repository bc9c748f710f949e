"""Workers that are restarted one after the other, in small: `python -m tests.peers.rolling`."""

from pathlib import Path

import pytest

from tests.peers.rolling import rolling
from tests.support.stores import WITH_AND_WITHOUT_REDIS, Store

pytestmark = pytest.mark.timeout(60)


@WITH_AND_WITHOUT_REDIS
async def test_calls_that_run_while_their_workers_are_restarted_end_with_their_results(
    store: Store, tmp_path: Path
) -> None:
    assert await rolling(store, tmp_path, calls=10, seconds=1.5) == []
