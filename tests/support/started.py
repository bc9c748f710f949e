"""The stores of `tests.support.stores` outside of pytest: their servers start when they are asked
for, and end with the block."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support.stores import STORES, Fixture, PostgresServer, RedisServer, Store, new_database


@contextmanager
def _postgres() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="mcp-pg-", ignore_cleanup_errors=True) as directory:
        server = PostgresServer(Path(directory) / "data", {"max_connections": "300"})
        server.start()
        try:
            yield server.url()
        finally:
            server.stop("immediate")


@contextmanager
def _redis() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="mcp-redis-") as directory:
        server = RedisServer(Path(directory))
        server.start()
        try:
            yield server.url()
        finally:
            server.stop()


_SERVERS = {"postgres_url": _postgres, "redis_url": _redis}


@contextmanager
def fixtures() -> Iterator[Fixture]:
    """What the fixtures of the tests give, made when it is first asked for."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:

        def fixture(wanted: str) -> Any:
            if wanted == "new_postgres":
                return lambda: new_database(fixture("postgres_url"))
            if wanted not in found:
                found[wanted] = stack.enter_context(_SERVERS[wanted]())
            return found[wanted]

        yield fixture


@contextmanager
def started(name: str, directory: Path) -> Iterator[Store]:
    """A store by its name in `STORES`, with its servers."""
    with fixtures() as fixture:
        yield STORES[name](directory, fixture)
