"""A copy whose process is killed. The whole of it is `tests.peers.copied`."""

from pathlib import Path

from mcp_persist_middleware.ops.copy import compare
from tests.peers.copied import fill, killed_copy


async def test_a_copy_that_is_killed_at_random_moments_loses_nothing_and_brings_nothing_twice(
    tmp_path: Path,
) -> None:
    source, target = (f"sqlite+aiosqlite:///{tmp_path / name}.db" for name in ("from", "to"))
    await fill(source, 24_000, each=50, size=100, beside=300)
    # How often it is killed before it has ended depends on the machine: the last time may be late.
    assert await killed_copy(source, target, kills=3, seconds=0.2, seed=7) >= 1
    found = await compare(source, target)
    assert (found.streams, found.events) == (480, 24_000)
    assert (found.jobs, found.journal) == (300, 300)
    assert found.ok
    assert found.checksums[0] == found.checksums[1]
