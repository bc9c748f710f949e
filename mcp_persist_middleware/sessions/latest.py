"""The latest session of each principal, for clients that never say the id of theirs again.

It stands in the registry of sessions, under a name that no header can hold: whatever keeps sessions
keeps it, and forgets it with them. Written and read only where `session_fallback` asks for it.
"""

import hashlib

from mcp_persist_middleware import rarely
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.parts import Sessions
from mcp_persist_middleware.model import NOTE, Place, SessionKey, SessionRecord, surely
from mcp_persist_middleware.settings import Settings

logger = rarely.logger(__name__)

_SIGN = NOTE + "latest:"


class LatestSessions:
    """The latest sessions of all principals that are known."""

    def __init__(self, sessions: Sessions, settings: Settings) -> None:
        self._sessions = sessions
        self._settings = settings

    async def note(self, key: SessionKey, principal: str) -> None:
        """A principal has begun a session."""
        named = surely(principal)
        if self._settings.session_fallback is None or not named:
            return
        record = SessionRecord(
            key=_key(Place(key.namespace, key.path), named),
            principal=named,
            version="",
            initialize=b"",
            generation=1,
            home="",
            expires_at=self._expiry(),
            fingerprint=key.id,
        )
        try:
            if not await self._sessions.create(record):
                await self._sessions.note(record)
                await self._sessions.touch([record.key], record.expires_at)
        except StoreError as error:
            logger.warning("MPM-SESSION-17: The latest session is not noted: %s", error)

    async def of(self, place: Place, principal: str) -> str | None:
        """The id of the latest session of a principal, if it lives.

        Raises:
            StoreError: the store does not answer.
        """
        key, now = _key(place, surely(principal)), self._sessions.now()
        noted = await self._sessions.find(key)
        if noted is None or noted.expires_at <= now:
            return None
        if noted.expires_at - now < self._settings.session_ttl / 2:
            # It lives as long as what it names is used.
            await self._sessions.touch([key], self._expiry())
        found = await self._sessions.find(SessionKey(*place, noted.fingerprint))
        if found is None or found.deleted or found.expires_at <= now:
            return None
        return found.key.id if surely(found.principal) == surely(principal) else None

    def _expiry(self) -> float:
        return self._sessions.now() + self._settings.session_ttl


def _key(place: Place, principal: str) -> SessionKey:
    return SessionKey(*place, _SIGN + hashlib.sha256(principal.encode()).hexdigest())
