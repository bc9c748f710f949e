"""The handle behind the middleware: an open store, on every event loop that asks for it."""

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, Unpack

from mcp_persist_middleware import erasure, runtime
from mcp_persist_middleware.erasure import Forgotten
from mcp_persist_middleware.errors import ClosedError, ConfigurationError, SwitchedOffError
from mcp_persist_middleware.health import Health, examined
from mcp_persist_middleware.log.base import MakeLog
from mcp_persist_middleware.log.deletions import Deletion
from mcp_persist_middleware.runtime import Runtime
from mcp_persist_middleware.settings import Settings, SettingsArguments, shown
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.memory import Memory
from mcp_persist_middleware.supervision import said
from mcp_persist_middleware.worker import Parts

# Where nothing is open nothing was learned.
_NOTHING = Memory()


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
        self._given: Mapping[str, Any] = {**named, **settings}
        self._settings: Settings | None = None
        self._error: ConfigurationError | None = None
        self._closed: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self.reports: dict[str, Callable[[], object]] = {}
        """What else `health` tells, by name: callables whose values JSON can hold."""
        # The one that was found last: a request is not to hash all settings.
        self._last: Callable[[], Runtime | None] = _none

    def or_given(self, given: "Persistence | None") -> "Persistence":
        """The one that was given ready made, or this one where none was. Where this one has
        settings beside that, its start says that only one of the two can be."""
        if given is None or not self._given:
            return given or self
        names = ", ".join(sorted(self._given))
        self._error = ConfigurationError(
            reason=f"persistence= and {names} are both given; set {names} on the Persistence"
        )
        return self

    def __repr__(self) -> str:
        known = {"url", *SettingsArguments.__optional_keys__}
        told = (f"{n}={shown(n, v) if n in known else '…'}" for n, v in self._given.items())
        return f"Persistence({', '.join(told)})"

    @property
    def settings(self) -> Settings:
        """The checked settings.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
        """
        if self._error is not None:
            raise self._error
        if self._settings is None:
            self._settings = Settings.load(self._given)
        return self._settings

    async def start(self) -> None:
        """Open the store on the running event loop; a second call does nothing, one after
        `aclose` opens it again.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
            StoreError: the store cannot be opened.
        """
        if self.settings.enabled:
            here = runtime.find_or_make(self.settings)
            self._closed.discard(here.loop)
            await here.start(self)

    async def drain(self) -> None:
        """Let running calls end, for at most `drain_seconds` from the first word of a shutdown;
        a call that has not ended then is answered with an error, for its client to find.
        """
        here = self._here()
        if here is not None and self in here.users:
            await here.drain(self)

    async def aclose(self) -> None:
        """Drain, commit what waits and close what was opened here. May be called twice."""
        here = self._here()
        if here is not None and self in here.users:
            await here.drain(self)
        # From here on no request opens it again.
        self._closed.add(runtime.running_loop())
        if here is not None and self in here.users:
            await here.release(self)

    async def health(self) -> Health:
        """Whether this worker can serve, and its numbers: what `health_path` answers. Opens the
        store when it was never open. The store is asked at most once a second, and for a bounded
        time."""
        also = {name: report() for name, report in self.reports.items()}
        try:
            if not self.settings.enabled:
                return Health(also=also)
            context = (await self.parts()).exchanges
            trouble = await self._joined().examiner.trouble(context)
        except Exception as error:  # noqa: BLE001
            # A store of somebody else's may fail in any way.
            return Health(reasons=(said(error),), also=also)
        return examined(context, trouble, also)

    async def ping(self) -> None:
        """Return when the store can take a write.

        Raises:
            ClosedError: after `aclose`.
            StoreError: it cannot.
        """
        await (await self.context()).log.ping()

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
        parts = await self.held()
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
        return await (await self.context()).log.deletions(limit)

    async def context(self) -> Context:
        """What the exchanges on the running event loop share; opens the store when it is not."""
        return (await self.parts()).exchanges

    async def parts(self) -> Parts:
        """What requests on the running event loop share, with or without its lease; opens the
        store when it was never open.

        Raises:
            ClosedError: after `aclose`.
            ConfigurationError: a setting is wrong.
            StoreError, or whatever a store of somebody else's raises: it cannot be opened.
        """
        here = self._joined()
        if here.parts is not None and self in here.users:
            return here.parts
        return await here.held(self)

    async def held(self) -> Parts:
        """The same with its lease: one that was lost, or a store that is being opened, is waited
        for, for `store_timeout` at most."""
        return await self._joined().held(self)

    @property
    def memory(self) -> Memory:
        """What is known of the application on the running event loop; nothing is opened."""
        try:
            here = self._here()
        except ConfigurationError:
            return _NOTHING
        return here.memory if here is not None else _NOTHING

    @property
    def was_taken(self) -> bool:
        """Whether what this process had before its lease was lost may be another worker's now."""
        here = self._here()
        return here is not None and here.was_taken

    def _here(self) -> Runtime | None:
        last = self._last()
        if last is None or last.is_over or last.loop is not runtime.running_loop():
            last = runtime.find(self.settings)
            if last is not None:
                self._last = weakref.ref(last)
        return last

    def _joined(self) -> Runtime:
        here = self._here()
        if here is None or self not in here.users:
            if not self.settings.enabled:
                raise SwitchedOffError
            if runtime.running_loop() in self._closed:
                raise ClosedError
            here = runtime.find_or_make(self.settings)
        return here

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _none() -> None:
    """Nothing was found yet."""
