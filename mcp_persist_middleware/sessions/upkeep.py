"""What the store is told of sessions later than it happens."""

from collections.abc import Iterable

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.parts import Sessions
from mcp_persist_middleware.model import SessionKey, SessionRecord
from mcp_persist_middleware.sessions.held import HeldSessions
from mcp_persist_middleware.sessions.local import LocalSession
from mcp_persist_middleware.settings import Settings

logger = rarely.logger(__name__)

_MOST_TOUCHED = 500
_PURGED = 500


class Upkeep:
    """Which sessions were used, which are deleted, and that it may forget the expired."""

    def __init__(self, sessions: Sessions, held: HeldSessions, settings: Settings) -> None:
        self._sessions = sessions
        self._held = held
        self._settings = settings
        self.deleted: dict[SessionKey, SessionRecord] = {}
        """What the store has yet to be told, as it was when it was deleted."""

    def expiry(self, *, brief: bool = False) -> float:
        """Until when a session is kept that is used now."""
        settings = self._settings
        longest = settings.brief_session_ttl if brief else settings.session_ttl
        return self._sessions.now() + min(longest, settings.session_ttl)

    async def make_room(self, owner: str, held: LocalSession) -> None:
        """The store forgets the idlest session of an owner who has one more than may be."""
        if self._held.count(owner, held) <= self._settings.max_sessions:
            return
        key = self._held.crowd_out(owner)
        telemetry.sessions.add(1, {"namespace": key.namespace, "event": "crowded out"})
        try:
            await self._sessions.touch([key], 0.0)
            await self._sessions.purge(self._sessions.now(), 1)
        except StoreError as error:
            logger.warning("MPM-SESSION-05: One session too many stays until it expires: %s", error)

    async def settle(self, key: SessionKey) -> bool:
        """See that the store knows of a deletion; false when the session has another home since,
        or is made anew: who was told of no deletion has gone on with it there.

        Raises:
            StoreError: it still does not.
        """
        record = self.deleted.get(key)
        if record is None:
            return True
        try:
            is_over = await self._sessions.delete(key, self.expiry(), record.generation)
        except StoreError as error:
            logger.warning(
                "MPM-SESSION-08: The store does not know yet of a deleted session: %s", error
            )
            raise
        if self.deleted.pop(key, None) is not None and is_over:
            now = self._sessions.now()
            telemetry.sessions.add(1, {"namespace": key.namespace, "event": "deleted"})
            telemetry.tell_session_end(record.began_at, now, record.version, "deleted")
        return is_over

    async def run(self) -> None:
        """Write down which sessions were used, forget the idle, purge the expired.

        Raises:
            StoreError: the store does not answer; nothing is lost.
        """
        errors: list[Exception] = []
        for step in (self._tell_deleted, self._touch_used, self._purge):
            # One that fails keeps no other from being done.
            try:
                await step()
            except Exception as error:  # noqa: BLE001
                errors.append(error)
        if errors:
            raise errors[0]

    async def _tell_deleted(self) -> None:
        for key in list(self.deleted):
            await self.settle(key)

    async def _touch_used(self) -> None:
        touched, self._held.touched = self._held.touched, set()
        brief = {k for k in touched if (held := self._held.get(k)) is not None and held.is_brief}
        try:
            await self._touch(touched, brief, self.expiry(brief=True))
            await self._touch(touched, touched - brief, self.expiry())
        finally:
            self._held.touched.update(touched)
        self._held.drop_idle(self._settings.session_ttl)

    async def _touch(
        self, touched: set[SessionKey], some: set[SessionKey], expires_at: float
    ) -> None:
        waiting = list(some)
        for start in range(0, len(waiting), _MOST_TOUCHED):
            part = waiting[start : start + _MOST_TOUCHED]
            if await self._sessions.touch(part, expires_at) != len(part):
                await self._drop_deleted(part)
            touched.difference_update(part)

    async def _drop_deleted(self, keys: Iterable[SessionKey]) -> None:
        """Somebody may have deleted some of these who was not their home: an operator."""
        for key in keys:
            record, held = await self._sessions.find(key), self._held.get(key)
            if record is not None and record.deleted and held is not None:
                self._held.drop(held)

    async def _purge(self) -> None:
        while await self._sessions.purge(self._sessions.now(), _PURGED) == _PURGED:
            pass
