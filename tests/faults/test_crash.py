"""What a client has seen survives a kill at any moment."""

import random
from pathlib import Path

from tests.faults.crash import crash

_KILLS = 6


async def test_kills_at_random_moments_lose_double_and_rerun_nothing(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    crashes = await crash(tmp_path, _KILLS, seed)
    assert len(crashes.calls) > _KILLS
