"""What is measured, open: two workers on the store, as far as can be without a second process."""

import contextlib
import dataclasses
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from mcp_persist_middleware.access import Access
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.ops import stores
from mcp_persist_middleware.ops.bench.application import BenchApplication
from mcp_persist_middleware.persistence import Persistence, access_to
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from mcp_persist_middleware.streams.context import Context

# What a killed one has left expires so many seconds after.
_TTL = 600.0
_FOR_EVER, _MANY = 1e9, 10**9


@dataclass(frozen=True, slots=True)
class Rig:
    """An application on its own, and with each of two workers."""

    namespace: str
    bare: ASGIApp
    here: ASGIApp
    there: ASGIApp
    context: Context
    """What the first worker has open."""


class _Checked(Persistence):
    """One whose settings are known."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._access = Access({}, settings)


def _owned(settings: Settings, namespace: str) -> Settings:
    """The settings without what is about requests and callers that there are not here."""
    return dataclasses.replace(
        settings,
        enabled=True,
        namespace=namespace,
        paths=None,
        persist=None,
        principal=None,
        relay_scope=None,
        rerun=None,
        # As any worker these end what dead ones have left, but for what is to be run again.
        rerun_seconds=_FOR_EVER,
        ttl=_TTL,
        anonymous_ttl=_TTL,
        # Nobody else's streams are to go for those of a measure.
        max_kept_streams=None,
        max_kept_bytes=None,
        max_store_bytes=None,
        max_journal_rows=_MANY,
        # A connection that is ended and resumed now and then would measure its client.
        resume_rotate=None,
        # What is served without the store is no measure of it.
        on_store_failure="refuse",
    )


@contextlib.contextmanager
def somewhere(settings: Settings) -> Iterator[Settings]:
    """The settings with a store that is there: for a SQLite file that is not, another in the same
    directory, which goes in the end."""
    log = None if settings.url is None else stores.sql_log(settings)
    if not isinstance(log, SqliteLog) or log.path.exists() or not log.path.parent.is_dir():
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix=".mcp-bench-", dir=log.path.parent) as made:
        yield dataclasses.replace(settings, url=str(Path(made) / log.path.name))


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Rig]:
    """Two workers, in a namespace of their own, which is erased in the end.

    Raises:
        StoreError: the store cannot be opened, or fails meanwhile.
    """
    namespace = f"bench-{secrets.token_hex(6)}"
    own = _owned(settings, namespace)
    # Settings of another kind are another worker on the same event loop.
    other = dataclasses.replace(own, ping_seconds=own.ping_seconds + 1)
    application = BenchApplication()
    async with _Checked(own) as here, _Checked(other) as there:
        context = await access_to(here).context()
        if context.log.facts().redis_up is False:
            raise StoreError(
                url=context.log.name, reason="Redis is away, and SQL alone is not what is asked for"
            )
        try:
            yield Rig(
                namespace,
                application,
                PersistMiddleware(application, persistence=here),
                PersistMiddleware(application, persistence=there),
                context,
            )
        finally:
            await here.forget(namespace=namespace)
