"""PostgreSQL, or a Redis in front of it, has no room left, on a file system that is really full:
what a client has seen is in the store, once, and the service goes on by itself. Mounting one takes
root; others skip this."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
import redis

from tests.faults.test_postgres import administer, all_have_ids, follow, in_thread, load
from tests.support.scripted import until
from tests.support.stores import (
    PostgresServer,
    RedisServer,
    drop_database,
    new_database,
    place_for_postgres,
)

pytestmark = pytest.mark.timeout(120)

MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system of a few megabytes."""

    place: Path

    @property
    def _ballast(self) -> Path:
        return self.place / "ballast"

    def fill(self) -> None:
        """Leave no room at all."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def clear(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(megabytes: int) -> Iterator[Disk]:
    """One of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    with tempfile.TemporaryDirectory(prefix="mcp-full-") as name:
        size = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", name]
        if subprocess.run(["mount", *size], check=False, capture_output=True).returncode:
            pytest.skip("file systems cannot be mounted here")
        Path(name).chmod(0o755)
        try:
            yield Disk(Path(name))
        finally:
            subprocess.run(["umount", "-l", name], check=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A small one."""
    with mounted(160) as made:
        yield made


@pytest.fixture
def server(disk: Disk) -> Iterator[PostgresServer]:
    """A server whose log is on the small disk."""
    made = PostgresServer(disk.place / "data", {"max_wal_size": "64MB", "min_wal_size": "32MB"})
    made.start()
    yield made
    with contextlib.suppress(Exception):
        made.stop("immediate")


@pytest.fixture
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Disk]]:
    """A database on a server with room, but whose tables are on a small disk."""
    with (
        place_for_postgres() as directory,
        mounted(64) as disk,
    ):
        server = PostgresServer(directory / "data")
        server.start()
        (place := disk.place / "tables").mkdir()
        shutil.chown(place, (server.directory / "postmaster.pid").owner())
        small = f"CREATE TABLESPACE small LOCATION '{place}'"
        asyncio.run(administer(server.url(), small))
        url = new_database(server.url())
        name = url.rpartition("/")[2]
        asyncio.run(administer(server.url(), f'ALTER DATABASE "{name}" SET TABLESPACE small'))
        try:
            yield url, disk
        finally:
            disk.clear()
            drop_database(url)
            server.stop("immediate")


async def takes_nothing(url: str) -> bool:
    """Whether the tables of a database have no room."""
    try:
        await administer(url, "CREATE TABLE more AS SELECT generate_series(1, 10000)")
    except asyncpg.DiskFullError:
        return True
    return False


async def test_tables_that_find_room_in_time_cost_time_and_nothing_else(
    tables: tuple[str, Disk],
) -> None:
    url, disk = tables
    async with load(url) as (_, calls):
        disk.fill()
        assert await takes_nothing(url)
        await asyncio.sleep(3)
        assert not any(call.done() for call in calls), "they wait for the store"
        disk.clear()
    all_have_ids(calls)


async def test_tables_without_room_are_survived(tables: tuple[str, Disk]) -> None:
    url, disk = tables
    async with load(url, store_timeout=1.0) as (port, _):
        disk.fill()
        assert await takes_nothing(url)
        async with asyncio.timeout(20):
            _, seen = await follow(port)
            while all(frame.id for frame in seen):
                # What was left in half-full pages is used up first.
                _, seen = await follow(port)
        disk.clear()


async def test_a_server_whose_own_log_has_no_room_is_survived(
    server: PostgresServer, disk: Disk
) -> None:
    url, first = new_database(server.url()), server.pid
    async with load(url, store_timeout=1.0) as (port, _):
        disk.fill()
        # The next segment of its log finds no room: that is a panic, and it ends.
        with contextlib.suppress(asyncpg.PostgresError, OSError):
            for _ in range(8):
                await administer(
                    url, "SELECT pg_switch_wal(), pg_logical_emit_message(true, '', '')"
                )
        async with asyncio.timeout(15):
            _, seen = await follow(port)
        assert not all(frame.id for frame in seen), "served live all the same"
        # It restarts by itself, finds no room, and gives up.
        await until(lambda: not Path(f"/proc/{first}").exists(), 20)
        disk.clear()
        await in_thread(server.start)
    assert "No space left on device" in (server.directory / "log").read_text()


@pytest.mark.parametrize("sync", ["always", "everysec"])
async def test_a_redis_whose_own_log_has_no_room_costs_no_event_and_is_used_again(
    new_postgres: Callable[[], str], disk: Disk, sync: str
) -> None:
    url = new_postgres()
    arguments = ("--appendonly", "yes", "--appendfsync", sync, "--logfile", "server.log")
    server = RedisServer(disk.place / "redis", *arguments)
    server.start()
    try:
        with contextlib.closing(redis.Redis(port=server.port)) as client:
            async with load(url, redis=server.url()) as (_, calls):
                disk.fill()
                # Straight to SQL, for as long as it refuses, or is gone.
                await until(lambda: _takes_nothing(client), 20)
                await asyncio.sleep(0.5)
                disk.clear()
                if server.process is not None and server.process.poll() is not None:
                    # One that may not lose a second gives up, as a supervisor sees.
                    server.stop()
                    await in_thread(server.start)
                await until(lambda: not _takes_nothing(client), 20)
            all_have_ids(calls)
            client.config_resetstat()
            async with load(url, redis=server.url()) as (_, calls):
                await until(lambda: "cmdstat_xadd" in client.info("commandstats"))
            all_have_ids(calls)
    finally:
        server.stop(signal.SIGKILL)


def _takes_nothing(client: redis.Redis) -> bool:
    """Whether a Redis refuses to write, or is not there."""
    try:
        client.set("some", bytes(4096), px=1000)
    except redis.RedisError:
        return True
    return False
