"""Several workers on one SQLite file, and what the file says about them."""

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcp_persist_middleware.protocol import event_id
from tests.support.processes import ServerProcess, mcp_server
from tests.support.session import RawSession
from tests.support.sse_client import Frame

INTERRUPTED = -32000


class Store:
    """The file, as somebody sees it who never waits for a lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """The rows of a query."""
        with contextmanager(_connected)(self.path) as connection:
            return connection.execute(sql, parameters).fetchall()

    def workers(self) -> dict[str, tuple[int, int]]:
        """Counter and state of each worker."""
        return {row[0]: row[1:] for row in self.rows("SELECT id, counter, state FROM mcp_worker")}

    def worker_of(self, cursor: str) -> str:
        """Who wrote the stream of an event."""
        position = event_id.parse(cursor)
        assert position is not None
        ((worker,),) = self.rows("SELECT worker FROM mcp_stream WHERE id = ?", position.stream)
        return str(worker)

    def events(self, cursor: str) -> list[tuple[int, int]]:
        """Number and epoch of each event of a cursor's stream."""
        position = event_id.parse(cursor)
        assert position is not None
        sql = "SELECT sequence, epoch FROM mcp_event WHERE stream = ? ORDER BY sequence"
        return self.rows(sql, position.stream)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody can write meanwhile."""
        with contextmanager(_connected)(self.path) as other:
            other.execute("PRAGMA busy_timeout = 10000")
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")


def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


class Workers:
    """Makes servers on one store, each with a log of its own."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self._directory = directory
        self._settings = {"resume_rotate": "none"} | settings
        self.store = Store(directory / "events.db")

    def make(self, name: str, *, mode: str = "stateful") -> ServerProcess:
        """A worker, not started."""
        return mcp_server(
            self._directory, mode=mode, settings=self._settings, log=self._directory / f"{name}.log"
        )

    @asynccontextmanager
    async def running(self, *names: str, mode: str = "stateful") -> AsyncIterator[Any]:
        """Workers, started one after the other; killed at the end."""
        made = [self.make(name, mode=mode) for name in names]
        started = []
        try:
            for server in made:
                await server.start()
                started.append(server)
            yield made
        finally:
            for server in started:
                await server.kill()


def elsewhere(session: RawSession, server: ServerProcess) -> RawSession:
    """The same client, at another worker."""
    return replace(session, port=server.port)


def error_of(frames: list[Frame]) -> dict[str, Any]:
    """The error that ends a call."""
    error: dict[str, Any] = frames[-1].message["error"]
    assert error["code"] == INTERRUPTED
    return error


def numbers(frames: list[Frame]) -> list[int]:
    """The numbers in the ids of events."""
    positions = [event_id.parse(frame.id) for frame in frames if frame.id and frame.data]
    return [position.sequence for position in positions if position is not None]
