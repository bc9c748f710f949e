"""The handle behind the middleware: an open store, on every event loop that asks for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, Unpack

from mcp_persist_middleware import erasure
from mcp_persist_middleware.access import Access
from mcp_persist_middleware.erasure import Forgotten
from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.health import Health
from mcp_persist_middleware.log.base import EventLog, MakeLog
from mcp_persist_middleware.log.deletions import Deletion
from mcp_persist_middleware.log.feed.feed import Feed
from mcp_persist_middleware.log.feed.items import OnSlow, scope_of, terms_of
from mcp_persist_middleware.settings import Settings, SettingsArguments, shown


class Persistence:
    """An open store and what runs around it: the handle behind `PersistMiddleware`.

    Use it as an async context manager, or let the middleware open it at start-up (or, where no
    lifespan is seen, with the first request). On each event loop it is opened once, and the last
    user closes it. After `aclose` no request opens it again on that event loop; `start` does.

    Args:
        url: the store, any SQLAlchemy URL or a file name.
        log: instead of `url`, makes a store of yours (`mcp_persist_middleware.store`): called for
            each worker, once on an event loop and again after a lost lease.
        settings: see `SettingsArguments`; checked when the object is opened.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        log: MakeLog | None = None,
        **settings: Unpack[SettingsArguments],
    ) -> None:
        stores = {"url": url, "log": log}
        named = {name: value for name, value in stores.items() if value is not None}
        given: Mapping[str, Any] = {**named, **settings}
        self._access = Access(given)
        self.reports: dict[str, Callable[[], object]] = {}
        """What else `health` tells, by name: callables whose values JSON can hold."""

    def __repr__(self) -> str:
        known = {"url", *SettingsArguments.__optional_keys__}
        told = (f"{n}={shown(n, v) if n in known else '…'}" for n, v in self._access.given.items())
        return f"Persistence({', '.join(told)})"

    @property
    def settings(self) -> Settings:
        """The checked settings.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
        """
        return self._access.settings

    async def start(self) -> None:
        """Open the store on the running event loop; a second call does nothing, one after
        `aclose` opens it again.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
            StoreError: the store cannot be opened.
        """
        await self._access.start()

    async def drain(self) -> None:
        """Let running calls end, for at most `drain_seconds` from the first word of a shutdown;
        a call that has not ended then is answered with an error, for its client to find.
        """
        await self._access.drain()

    async def aclose(self) -> None:
        """Drain, commit what waits and close what was opened here. May be called twice."""
        await self._access.aclose()

    async def health(self) -> Health:
        """Whether this worker can serve, and its numbers: what `health_path` answers. Opens the
        store when it was never open. The store is asked at most once a second, and for a bounded
        time."""
        return await self._access.health({name: say() for name, say in self.reports.items()})

    async def ping(self) -> None:
        """Return when the store can take a write.

        Raises:
            ClosedError: after `aclose`.
            StoreError: it cannot.
        """
        await (await self._access.context()).log.ping()

    async def forget(
        self,
        *,
        principal: str | Sequence[str | None] | None = None,
        session: str | None = None,
        namespace: str | None = None,
    ) -> Forgotten:
        """Erase what belongs to one: its streams with their events, its sessions, the requests that
        were kept to be run again and those on their way between workers, its rows in the journal;
        how much that was. Where several are given, what belongs to each of them.

        A call that runs goes on, and nothing of it is stored any more; a session ends. Another
        worker that holds one serves it until it ends there, and what is asked for in it meanwhile
        is stored anew, as is the row in the journal of a call that ends there. A reply that lies in
        Redis and is never fetched goes after 80 s.

        Args:
            principal: what the setting `principal` returned, the name of an authenticated user, or
                the owner of a stream as lists show it; of the bearer of a token
                `(issuer, subject, client_id)`, None for what it does not say.
            session: the id that its client has.

        Raises:
            ValueError: none is given, or one that is empty.
            UnsupportedError: it is a store of yours that cannot do it.
            StoreError: the store does not do it now; a second call goes on with it.
        """
        parts = await self._access.held()
        context = parts.exchanges
        meant = erasure.whose(context.log.secret, principal, session, namespace)
        return await erasure.forget(context, parts.sessions, meant)

    async def deletions(self, limit: int = 1000) -> Sequence[Deletion]:
        """What retention, a bound or `forget` has removed of late, the newest first: when, how much
        of what, and why. The newest 10,000 of these notes are kept.

        Raises:
            UnsupportedError: it is a store of yours that does not keep them.
            StoreError: the store does not answer.
        """
        return await (await self._access.context()).log.deletions(limit)

    def subscribe(
        self,
        *,
        stream: str | None = None,
        session: str | None = None,
        namespace: str | None = None,
        after: str = "now",
        on_slow: OnSlow = "block",
        max_behind: int = 10_000,
    ) -> Feed:
        """Follow events as they are committed: those of one stream, of a session, of a namespace,
        or all. Each comes once, a stream's in their order; what was removed before it was read
        comes as a gap.

        Args:
            stream: its name, or an event id of it. The feed ends with it.
            session: the id that its client has.
            after: `"now"`, `"start"` (with what the store has), or the cursor of an item.
            on_slow: what becomes of events while nobody asks for them. `"block"`: they wait in the
                store, for as long as it keeps them; `"drop"`: of more than `max_behind` the oldest
                are passed over, and counted in a gap.

        Raises:
            FeedError: `stream` or `on_slow` is none. Beginning raises it as well, see `Feed.begin`.
        """
        scope = scope_of(stream, session, namespace)
        terms = terms_of(self.settings, on_slow, max_behind)

        async def source() -> EventLog:
            return (await self._access.context()).log

        return Feed(source, scope, after, terms)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def access_to(persistence: Persistence) -> Access:
    """What is behind it, for what is not its user's."""
    return persistence._access  # noqa: SLF001


def one_of(own: Persistence, given: Persistence | None) -> Persistence:
    """The one that was given ready made, or our own where none was. Where that one has settings
    beside it, its start says that only one of the two can be."""
    access = access_to(own)
    if given is None or not access.given:
        return given or own
    names = ", ".join(sorted(access.given))
    access.error = ConfigurationError(
        reason=f"persistence= and {names} are both given; set {names} on the Persistence"
    )
    return own
