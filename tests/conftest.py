"""What every test shares: a store of its own, and a check that it leaves nothing running."""

import asyncio
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.certificates import Authority
from tests.support.forks import AVAILABLE, Forks
from tests.support.measured import providers, telemetry
from tests.support.packaged import Pgbouncer, Postgres15, TlsRedis
from tests.support.processes import ServerProcess
from tests.support.stores import (
    PostgresServer,
    RedisServer,
    drop_database,
    empty_database,
    new_database,
    place_for_postgres,
)

__all__ = ["providers", "telemetry"]

_SECONDS = 5.0

# Every worker of the tests, every server and every command that they begin would compile the
# package anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What is imported and collected stays to the end: the collector need not go through it, now or
# after any of the tests.
gc.disable()
# What a plain `pip install uvicorn` runs on, unless the environment says otherwise; the proxy runs
# on what its extra brings.
os.environ.setdefault("UVICORN_LOOP", "asyncio")
os.environ.setdefault("UVICORN_HTTP", "h11")

# How long an example takes says what else the machine does.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Have what the tests leave collected, and that alone."""
    gc.enable()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def forks() -> Iterator[None]:
    """Servers come from a process that has imported what they need."""
    if not AVAILABLE:
        yield
        return
    with Forks() as ServerProcess.forks:
        yield
    ServerProcess.forks = None


@pytest.fixture
def tmp_store(tmp_path: Path) -> str:
    """The URL of a store of this test's own."""
    return f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server that all tests share; each makes a database of its own."""
    if given := os.environ.get("MCP_PERSIST_TEST_POSTGRES"):
        yield given
        return
    with place_for_postgres() as directory:
        server = PostgresServer(directory / "data", _OPTIONS)
        server.start()
        yield server.url()
        server.stop("immediate")


# Databases come and go here by the hundred, and need not outlive a loss of power.
_OPTIONS = {"max_connections": "300", "fsync": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def free_databases() -> list[str]:
    """Those on the shared PostgreSQL that are empty, and nobody's."""
    return []


@pytest.fixture
def new_postgres(postgres_url: str, free_databases: list[str]) -> Iterator[Callable[[], str]]:
    """Gives a test databases that are empty and its own."""
    given: list[str] = []

    def make() -> str:
        given.append(free_databases.pop() if free_databases else new_database(postgres_url))
        return given[-1]

    yield make
    for url in given:
        empty_database(url)
        free_databases.append(url)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis server that all tests share; keys begin with what is each store's own."""
    if given := os.environ.get("MCP_PERSIST_TEST_REDIS"):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="mcp-redis-") as directory:
        server = RedisServer(Path(directory))
        server.start()
        yield server.url()
        server.stop()


@pytest.fixture(scope="session")
def postgres_15() -> Iterator[Postgres15]:
    """The packaged PostgreSQL 15 that all tests share; it speaks TLS alone."""
    with place_for_postgres() as directory:
        server = Postgres15(directory / "data", _OPTIONS, Authority(directory / "tls"))
        server.start()
        yield server
        server.stop("immediate")


@pytest.fixture
def new_postgres_15(postgres_15: Postgres15) -> Iterator[Callable[[], str]]:
    """Makes databases there that go with the test."""
    made: list[str] = []

    def make() -> str:
        made.append(new_database(postgres_15.url()))
        return made[-1]

    yield make
    for url in made:
        drop_database(url)


@pytest.fixture(scope="session")
def pgbouncer(postgres_15: Postgres15) -> Iterator[Pgbouncer]:
    """A pgbouncer in front of it, in session mode."""
    directory = postgres_15.directory.parent / "pgbouncer"
    made = Pgbouncer(directory, postgres_15, "session")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def tls_redis() -> Iterator[TlsRedis]:
    """The packaged Redis that all tests share; it speaks TLS alone."""
    with tempfile.TemporaryDirectory(prefix="mcp-redis-") as directory:
        server = TlsRedis(Path(directory), Authority(Path(directory) / "tls"))
        server.start()
        yield server
        server.stop()


@pytest.fixture
async def no_leftover_tasks() -> AsyncIterator[None]:
    """Fail when a task of the library outlives the test."""
    yield
    ours = {
        task
        for task in asyncio.all_tasks()
        if task.get_name().startswith("mcp-persist-") and not task.done()
    }
    assert not ours


@pytest.fixture(autouse=True)
def no_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail when a task or a thread that keeps the process alive outlives the test."""
    before = set(threading.enumerate())
    if request.node.get_closest_marker("asyncio") is not None:
        request.getfixturevalue("no_leftover_tasks")
    yield
    deadline = time.monotonic() + _SECONDS
    for thread in set(threading.enumerate()) - before:
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"{thread} was left behind"
