"""Calls of several rounds (2026-07-28): the application asks for input and gives the client a
state, which often it alone can read again. Whoever comes back with it is served where it was made.

The state is the application's own, to the last byte: a mark of ours in it would make every worker
that cannot take it off (the store is away, the middleware is gone) one that refuses. Which worker
made it stands in the registry of sessions instead, under a hash and a name that no header can hold:
such a round is a session of one question, found, relayed and forgotten as every other is.
"""

import hashlib
import json
import re

from mcp_persist_middleware import rarely
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.parts import Sessions
from mcp_persist_middleware.model import NOTE, Place, SessionKey, SessionRecord
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.sessions.local import LocalSession, Site
from mcp_persist_middleware.settings import Settings

logger = rarely.logger(__name__)

_SIGN = NOTE + "round:"
_MOST_HELD = 10_000
_STATE = re.compile(rb'"requestState"\s*:\s*("(?:[^"\\]|\\.)*")')


class Rounds:
    """The questions that this worker's application has put to clients that may come back elsewhere.

    Args:
        worker: this one.
    """

    def __init__(self, sessions: Sessions, settings: Settings, worker: str) -> None:
        self._sessions = sessions
        self._settings = settings
        self._worker = worker
        self._held: Recent[SessionKey, LocalSession] = Recent(_MOST_HELD)

    @staticmethod
    def key(place: Place, caller: str, state: str) -> SessionKey:
        """What the question that gave this state to a caller is known by. Of states that are not
        sealed many are alike, and those of one caller are not another's."""
        said = f"{caller}\0{state}".encode("utf-8", "surrogatepass")
        return SessionKey(*place, _SIGN + hashlib.sha256(said).hexdigest())

    def held(self, key: SessionKey) -> LocalSession | None:
        """The question, if it was put here."""
        return self._held.get(key)

    async def note(self, key: SessionKey, principal: str, site: Site) -> None:
        """A question is about to reach its client. One that cannot be noted is answered wherever
        its client comes back, as without us."""
        record = SessionRecord(
            key=key,
            principal=principal,
            version="",
            initialize=b"",
            generation=1,
            home=self._worker,
            expires_at=self._sessions.now() + self._settings.brief_session_ttl,
        )
        try:
            if await self._sessions.create(record):
                self._held[key] = LocalSession(record, key.id, site=site)
        except StoreError as error:
            logger.warning(
                "MPM-SESSION-16: Only this worker knows that it has put a question: %s", error
            )


def state_in(body: bytes) -> str | None:
    """The state in a message of the application that puts a question; None in any other."""
    if b'"requestState"' not in body or b'"input_required"' not in body:
        return None
    found = _STATE.search(body)
    try:
        return str(json.loads(found[1])) if found is not None else None
    except ValueError:
        return None
