"""The stores of `tests.support.stores` outside of pytest: their servers start when they are asked
for, and end with the block."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support.distance import distant
from tests.support.stores import STORES, Fixture, PostgresServer, RedisServer, Store, new_database


@contextmanager
def _postgres(directory: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(directory / "data", {"max_connections": "300"})
    server.start()
    try:
        yield server
    finally:
        server.stop("immediate")


@contextmanager
def _redis(directory: Path) -> Iterator[RedisServer]:
    server = RedisServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


_SERVERS: dict[str, Callable[[Path], AbstractContextManager[PostgresServer | RedisServer]]] = {
    "postgres_url": _postgres,
    "redis_url": _redis,
}


@contextmanager
def fixtures(away: Mapping[str, float] | None = None) -> Iterator[Fixture]:
    """What the fixtures of the tests give, made when it is first asked for.

    Args:
        away: how far servers of a kind are, `postgres` or `redis`, in milliseconds there and back.
    """
    found: dict[str, Any] = {}
    with ExitStack() as stack:

        def serve(wanted: str) -> str:
            directory = tempfile.TemporaryDirectory(prefix="mcp-", ignore_cleanup_errors=True)
            server = stack.enter_context(_SERVERS[wanted](Path(stack.enter_context(directory))))
            kind = "postgres" if isinstance(server, PostgresServer) else "redis"
            if not (milliseconds := (away or {}).get(kind)):
                return server.url()
            return server.url(port=stack.enter_context(distant(server.port, milliseconds)))

        def fixture(wanted: str) -> Any:
            if wanted == "new_postgres":
                return lambda: new_database(fixture("postgres_url"))
            if wanted not in found:
                found[wanted] = serve(wanted)
            return found[wanted]

        yield fixture


@contextmanager
def started(name: str, directory: Path) -> Iterator[Store]:
    """A store by its name in `STORES`, with its servers."""
    with fixtures() as fixture:
        yield STORES[name](directory, fixture)


def each_started(names: Iterable[str]) -> Iterator[tuple[Store, Path]]:
    """One after the other, each with a directory of its own, for as long as it is looked at."""
    for name in names:
        with tempfile.TemporaryDirectory() as directory, started(name, Path(directory)) as store:
            yield store, Path(directory)
