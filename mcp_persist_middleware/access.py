"""The way from a request to the store that is open on its event loop."""

import asyncio
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mcp_persist_middleware import runtime
from mcp_persist_middleware.errors import ClosedError, ConfigurationError, SwitchedOffError
from mcp_persist_middleware.health import Health, examined
from mcp_persist_middleware.runtime import Runtime
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.memory import Memory
from mcp_persist_middleware.supervision import said
from mcp_persist_middleware.worker import Parts

# Where nothing is open nothing was learned.
_NOTHING = Memory()


class Access:
    """What is behind a `Persistence`: its settings, and on each event loop what they have opened.

    Args:
        given: the settings as they were given; checked when they are needed.
        settings: instead of them, what is checked already.
    """

    def __init__(self, given: Mapping[str, Any], settings: Settings | None = None) -> None:
        self.given = given
        self.error: ConfigurationError | None = None
        """Why nothing can be opened, whatever the settings are."""
        self._settings = settings
        self._closed: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        # The one that was found last: a request is not to hash all settings.
        self._last: Callable[[], Runtime | None] = _none

    @property
    def settings(self) -> Settings:
        """The checked settings.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
        """
        if self.error is not None:
            raise self.error
        if self._settings is None:
            self._settings = Settings.load(self.given)
        return self._settings

    def switch_off(self) -> None:
        """Open nothing from now on, as with `enabled=False`: for who looks at the application
        alone.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
        """
        self._settings = replace(self.settings, enabled=False)

    # Opened and closed.

    async def start(self) -> None:
        """Open the store on the running event loop.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
            StoreError: the store cannot be opened.
        """
        if self.settings.enabled:
            here = runtime.find_or_make(self.settings)
            self._closed.discard(here.loop)
            await here.start(self)

    async def drain(self) -> None:
        """Let running calls end."""
        here = self._here()
        if here is not None and self in here.users:
            await here.drain(self)

    async def aclose(self) -> None:
        """Drain, commit what waits and close what was opened here."""
        here = self._here()
        if here is not None and self in here.users:
            await here.drain(self)
        # From here on no request opens it again.
        self._closed.add(runtime.running_loop())
        if here is not None and self in here.users:
            await here.release(self)

    # What is open.

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

    async def health(self, also: Mapping[str, object]) -> Health:
        """Whether this worker can serve; what `also` says is told with it."""
        try:
            if not self.settings.enabled:
                return Health(also=also)
            context = await self.context()
            trouble = await self._joined().examiner.trouble(context)
        except Exception as error:  # noqa: BLE001
            # A store of somebody else's may fail in any way.
            return Health(reasons=(said(error),), also=also)
        return examined(context, trouble, also)

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


def _none() -> None:
    """Nothing was found yet."""
