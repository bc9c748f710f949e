"""Which sessions this worker holds, and what the store knows of all of them."""

import dataclasses
import secrets
import time
from collections.abc import Callable

from starlette.requests import HTTPConnection
from starlette.types import Scope

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import SessionElsewhereError, StoreError
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.parts import Sessions
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import Place, SessionKey, SessionRecord
from mcp_persist_middleware.sessions.held import HeldSessions
from mcp_persist_middleware.sessions.latest import LatestSessions
from mcp_persist_middleware.sessions.local import LocalSession
from mcp_persist_middleware.sessions.revivals import Revivals
from mcp_persist_middleware.sessions.rounds import Rounds
from mcp_persist_middleware.sessions.seen import SeenSessions
from mcp_persist_middleware.sessions.upkeep import Upkeep
from mcp_persist_middleware.settings import Settings

logger = rarely.logger(__name__)

# What a client says of itself is short; a longer initialize is served, and not kept.
_MAX_INITIALIZE = 64 * 1024
# So are the names of what it subscribes to (characters, all together).
_MOST_NOTED = 64 * 1024


class Registry:
    """The sessions of one worker. What it holds is served without asking the store.

    Args:
        before: that of the worker before this one on the event loop, which has lost its lease. The
            application has all that this held; another worker may have taken it over since.
    """

    def __init__(
        self,
        sessions: Sessions,
        settings: Settings,
        worker: str,
        peers: Peers,
        is_down: Callable[[], bool] = lambda: False,
        before: "Registry | None" = None,
    ) -> None:
        self._sessions = sessions
        self._peers = peers
        self._settings = settings
        self._worker = worker
        self._is_down = is_down
        self._held = HeldSessions()
        self._upkeep = Upkeep(sessions, self._held, settings)
        self._seen = SeenSessions(self.find)
        self.revivals = Revivals()
        self.rounds = Rounds(sessions, settings, worker)
        self.latest = LatestSessions(sessions, settings)
        if before is not None:
            self._held.inherit(before._held)  # noqa: SLF001
            self._upkeep.deleted.update(before._upkeep.deleted)  # noqa: SLF001

    @property
    def max_body_bytes(self) -> int:
        """How much of a request is kept for a second try."""
        return self._settings.max_body_bytes

    @property
    def max_event_bytes(self) -> int:
        """The largest event that is looked into."""
        return self._settings.max_event_bytes

    @staticmethod
    def key(place: Place, public: str) -> SessionKey:
        """The session that a request names."""
        return SessionKey(*place, public)

    def held(self, key: SessionKey) -> LocalSession | None:
        """The session, if it is held here; it counts as used now."""
        return self._held.use(key) or self.rounds.held(key)

    async def arrived(self, key: SessionKey) -> LocalSession | None:
        """The same, once whoever brings it here just now has done so."""
        async with self.revivals.lock(key):
            return self.held(key)

    def was_left(self, key: SessionKey) -> bool:
        """Whether the worker before this one held it, and nobody has asked for it since."""
        return key in self._held.left

    def is_left(self, record: SessionRecord) -> bool:
        """Whether so, and no other has taken it over: the application has it, with its state."""
        return self._held.is_left(record)

    def is_inner(self, key: SessionKey) -> bool:
        """Whether the application gave this id to a session that has another public one."""
        return self._held.is_inner(key)

    async def begin(
        self,
        place: Place,
        inner: str,
        principal: str,
        version: str,
        initialize: bytes,
        owner: str = "",
    ) -> LocalSession:
        """Commit a new session, under the application's id or, when that one is taken, under one
        of ours. A store that fails costs the session its life after this process. Of too many of
        one `owner` the store forgets the one that was idle for longest; here it lives on.
        """
        record = SessionRecord(
            key=self.key(place, inner),
            principal=principal,
            version=version,
            initialize=initialize,
            generation=1,
            home=self._worker,
            expires_at=self._upkeep.expiry(brief=True),
            began_at=self._sessions.now(),
        )
        held = LocalSession(record, inner, owner=owner)
        held.is_kept = len(initialize) <= _MAX_INITIALIZE and not self._is_down()
        try:
            while held.is_kept and not await self._sessions.create(held.record):
                key = self.key(place, secrets.token_hex(16))
                held.record = dataclasses.replace(record, key=key)
        except StoreError as error:
            logger.warning("MPM-SESSION-04: A session will not outlive this process: %s", error)
            held.is_kept = False
        held.record = dataclasses.replace(held.record, initialize=b"")
        telemetry.sessions.add(1, {"namespace": place.namespace, "event": "begun"})
        self._held.add(held)
        if held.is_kept:
            await self._upkeep.make_room(owner, held)
        return held

    async def find(self, key: SessionKey) -> SessionRecord | None:
        """A session of the store that may be brought back.

        Raises:
            StoreError: the store does not answer.
        """
        if key in self._upkeep.deleted:
            return None
        record = await self._sessions.find(key)
        if record is None or record.deleted or record.expires_at <= self._sessions.now():
            return None
        return record

    async def seen(self, key: SessionKey, *, anew: bool) -> SessionRecord | None:
        """The same, as it was within the last second unless it is looked at `anew`. That is enough
        to enqueue a relayed request, for one to where the session is not any more is refused.

        Raises:
            StoreError: the store does not answer.
        """
        return await self._seen.get(key, anew=anew)

    @property
    def is_local(self) -> bool:
        """Whether sessions that are not held here are nobody's business here."""
        return self._settings.session_routing == "local"

    async def is_free(self, record: SessionRecord, *, asks: bool = True) -> bool:
        """Whether this worker may become the home of a session that it does not hold. A home that
        shuts down, or lives where any may take over, is left by requests that ask for something,
        not by what belongs to its calls.

        Raises:
            StoreError: the store does not answer.
        """
        home = record.home
        is_ours = home == self._worker or self.is_left(record)
        if is_ours or (asks and self._settings.session_routing == "revive"):
            return True
        if not self._peers.is_suspect(home):
            return False
        peer = await self._peers.verify(home)
        return peer.gone or (peer.draining and asks)

    async def check(self, held: LocalSession) -> LocalSession | None:
        """The session, if this worker is still its home; where any worker may take any session
        over at once, only the store can tell.

        Raises:
            StoreError: the store does not answer.
        """
        if held.is_kept:
            record = await self.find(held.record.key)
            if record is None or record.generation != held.record.generation:
                self.drop(held)
                return None
        return held

    async def is_known(self, key: SessionKey) -> bool:
        """Whether the store has ever heard of a session, or cannot say."""
        try:
            return key in self._held.erased or await self._sessions.find(key) is not None
        except StoreError:
            return True

    def may_revive(self, scope: Scope) -> bool:
        """What the `revive` setting says of this request."""
        revive = self._settings.revive
        return revive if isinstance(revive, bool) else bool(revive(HTTPConnection(scope)))

    async def take(self, record: SessionRecord, inner: str) -> LocalSession | None:
        """Become the home of a session that was brought back; None when another was faster.

        Raises:
            StoreError: the store does not answer.
        """
        return await self._moved(record, LocalSession(record, inner, is_revived=True), "revived")

    async def take_back(self, record: SessionRecord) -> LocalSession | None:
        """Become the home of a session that was left; None when another was faster.

        Raises:
            StoreError: the store does not answer.
        """
        return await self._moved(record, self._held.left[record.key], "taken back")

    async def _moved(
        self, record: SessionRecord, held: LocalSession, how: str
    ) -> LocalSession | None:
        if not await self._sessions.move(record.key, record.generation, self._worker):
            return None
        moved = dataclasses.replace(record, generation=record.generation + 1, home=self._worker)
        held.record = dataclasses.replace(moved, initialize=b"")
        held.used_at = time.monotonic()
        self._held.left.pop(record.key, None)
        telemetry.sessions.add(1, {"namespace": record.key.namespace, "event": how})
        self._held.add(held)
        if held.owner is not None:
            self._held.count(held.owner, held)
        return held

    async def note(self, held: LocalSession, **changes: object) -> None:
        """Keep a change of what revival has to repeat."""
        record = dataclasses.replace(held.record, **changes)  # type: ignore[arg-type]
        if sum(map(len, (record.level, *record.subscriptions))) > _MOST_NOTED:
            logger.warning("MPM-SESSION-06: A session subscribes to more than is kept")
        elif record != held.record:
            held.record = record
            if held.is_kept:
                try:
                    async with held.noting:
                        # What was noted meanwhile is in it, whoever comes first.
                        await self._sessions.note(held.record)
                except StoreError as error:
                    logger.warning("MPM-SESSION-07: What revival repeats is not kept: %s", error)

    async def end(self, held: LocalSession) -> None:
        """The client has deleted its session: it never comes back, anywhere.

        Raises:
            SessionElsewhereError: it has been made anew meanwhile, and is to be deleted there.
            StoreError: the store does not know it yet, and is told again. Here it is deleted.
        """
        self.drop(held)
        # What revival would repeat is not kept for that.
        told = dataclasses.replace(held.record, level="", subscriptions=())
        self._upkeep.deleted[told.key] = told
        if not await self.settle(told.key):
            raise SessionElsewhereError

    async def settle(self, key: SessionKey) -> bool:
        """See that the store knows of a deletion; false when the session lives on elsewhere.

        Raises:
            StoreError: it still does not.
        """
        return await self._upkeep.settle(key)

    def drop(self, held: LocalSession) -> None:
        """The application has forgotten this one."""
        self._held.drop(held)

    def forget(self, whose: Whose) -> None:
        """Hold nothing of somebody's sessions any more. They are unknown here from now on, whatever
        the application still knows."""
        self._held.erase(whose)
        self._seen.erase(whose)

    async def keep(self) -> None:
        """Write down which sessions were used, forget the idle, purge the expired.

        Raises:
            StoreError: the store does not answer; nothing is lost.
        """
        await self._upkeep.run()
