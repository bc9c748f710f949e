"""What a client has seen survives a kill at any moment."""

import random
from pathlib import Path

import pytest

from tests.faults.crash import crash

_KILLS = 4


@pytest.mark.parametrize("workers", [1, 2])
async def test_kills_at_random_moments_lose_double_and_rerun_nothing(
    tmp_path: Path, workers: int
) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    crashes = await crash(tmp_path, _KILLS, seed, workers)
    assert len(crashes.calls) > _KILLS
