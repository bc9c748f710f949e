"""Which sessions this worker holds, and what the store knows of all of them."""

import asyncio
import dataclasses
import secrets
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable

from starlette.requests import HTTPConnection
from starlette.types import Scope

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.parts import Sessions
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import Place, SessionKey, SessionRecord
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.sessions.local import LocalSession
from mcp_persist_middleware.settings import Settings

logger = rarely.logger(__name__)

_MOST_HELD = 100_000
_MOST_TOUCHED = 500
_PURGED = 500
_MOST_SEEN, _SEEN_SECONDS = 10_000, 1.0
_MOST_REFUSED, _REFUSED_SECONDS = 1000, 1.0
_MOST_FORGOTTEN = 10_000
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
        self._held: OrderedDict[SessionKey, LocalSession] = OrderedDict()
        self._by_inner: weakref.WeakValueDictionary[tuple[str, str], LocalSession] = (
            weakref.WeakValueDictionary()
        )
        self._deleted: set[SessionKey] = set()
        """What the store has yet to be told."""
        self._touched: set[SessionKey] = set()
        self._owned: dict[str, OrderedDict[SessionKey, LocalSession]] = {}
        """What the store keeps of each owner, the one that was used last at the end."""
        self._has_warned = False
        self._seen: Recent[SessionKey, tuple[SessionRecord | None, float]] = Recent(_MOST_SEEN)
        """Sessions of other workers, and until when they count as looked up."""
        self._locks: weakref.WeakValueDictionary[Hashable, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._refused: Recent[Hashable, float] = Recent(_MOST_REFUSED)
        """Who was told of late that a session is unknown, and until when that holds."""
        self._forgotten: Recent[SessionKey, None] = Recent(_MOST_FORGOTTEN)
        """Sessions that were erased: the application may know them still, and is not asked."""
        self._left: dict[SessionKey, LocalSession] = {}
        """What the worker before this one held and nobody has asked for since."""
        if before is not None:
            self._inherit(before)

    def _inherit(self, before: "Registry") -> None:
        self._deleted.update(before._deleted)  # noqa: SLF001
        self._forgotten.update(before._forgotten)  # noqa: SLF001
        # Those that were used last, however often the lease is lost.
        known = list((before._left | before._held).items())  # noqa: SLF001
        for key, held in known[-_MOST_HELD:]:
            held.site = None
            if held.is_kept:
                self._left[key] = held
                self._by_inner[key.path, held.inner] = held
            else:
                # Of what the store does not know nobody else can have heard.
                self._hold(held)

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
        found = self._held.get(key)
        if found is not None:
            found.used_at = time.monotonic()
            self._held.move_to_end(key)
            if found.is_kept:
                self._touched.add(key)
            if (owned := self._owned.get(found.owner or "")) is not None and key in owned:
                owned.move_to_end(key)
        return found

    def was_left(self, key: SessionKey) -> bool:
        """Whether the worker before this one held it, and nobody has asked for it since."""
        return key in self._left

    def is_left(self, record: SessionRecord) -> bool:
        """Whether it is so, and no other worker has taken it over meanwhile: then the application
        has it still, with its state."""
        left = self._left.get(record.key)
        return left is not None and left.record.generation == record.generation

    def is_inner(self, key: SessionKey) -> bool:
        """Whether the application gave this id to a session that has another public one."""
        found = self._by_inner.get((key.path, key.id))
        return found is not None and found.record.key != key

    def lock(self, key: Hashable) -> asyncio.Lock:
        """Whoever brings a session back holds this, and whoever asks for one that he may not own
        holds one of his own."""
        lock = self._locks.get(key)
        if lock is None:
            self._locks[key] = lock = asyncio.Lock()
        return lock

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
            expires_at=self._expiry(brief=True),
        )
        held = LocalSession(record, inner, owner=owner)
        held.is_kept = len(initialize) <= _MAX_INITIALIZE and not self._is_down()
        try:
            while held.is_kept and not await self._sessions.create(held.record):
                key = self.key(place, secrets.token_hex(16))
                held.record = dataclasses.replace(record, key=key)
        except StoreError as error:
            logger.warning("A session will not outlive this process: %s", error)
            held.is_kept = False
        held.record = dataclasses.replace(held.record, initialize=b"")
        telemetry.sessions.add(1, {"namespace": place.namespace, "event": "begun"})
        self._hold(held)
        if held.is_kept:
            await self._make_room(owner, held)
        return held

    async def _make_room(self, owner: str, held: LocalSession) -> None:
        owned = self._owned.setdefault(owner, OrderedDict())
        owned[held.record.key] = held
        if len(owned) <= self._settings.max_sessions:
            return
        key, oldest = owned.popitem(last=False)
        oldest.is_kept = False
        self._touched.discard(key)
        telemetry.sessions.add(1, {"namespace": key.namespace, "event": "crowded out"})
        try:
            await self._sessions.touch([key], 0.0)
            await self._sessions.purge(self._sessions.now(), 1)
        except StoreError as error:
            logger.warning("One session too many stays until it expires: %s", error)

    async def find(self, key: SessionKey) -> SessionRecord | None:
        """A session of the store that may be brought back.

        Raises:
            StoreError: the store does not answer.
        """
        if key in self._deleted:
            return None
        record = await self._sessions.find(key)
        if record is None or record.deleted or record.expires_at <= self._sessions.now():
            return None
        return record

    async def seen(self, key: SessionKey, *, anew: bool) -> SessionRecord | None:
        """The same, as it was within the last second unless it is looked at `anew`. That is enough
        to post a relayed request, for one to where the session is not any more is refused.

        Raises:
            StoreError: the store does not answer.
        """
        record, until = self._seen.pop(key, (None, 0.0))
        if anew or record is None or time.monotonic() >= until:
            record, until = await self.find(key), time.monotonic() + _SEEN_SECONDS
        if record is not None:
            self._seen[key] = dataclasses.replace(record, initialize=b""), until
        return record

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
        verdict = await self._peers.verify(home)
        return verdict.gone or (verdict.draining and asks)

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
        if key in self._forgotten:
            return True
        try:
            return await self._sessions.find(key) is not None
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
        return await self._moved(record, self._left[record.key], "taken back")

    async def _moved(
        self, record: SessionRecord, held: LocalSession, how: str
    ) -> LocalSession | None:
        if not await self._sessions.move(record.key, record.generation, self._worker):
            return None
        generation = record.generation + 1
        held.record = dataclasses.replace(
            record, generation=generation, home=self._worker, initialize=b""
        )
        held.used_at = time.monotonic()
        self._left.pop(record.key, None)
        telemetry.sessions.add(1, {"namespace": record.key.namespace, "event": how})
        self._hold(held)
        if held.owner is not None:
            self._owned.setdefault(held.owner, OrderedDict())[record.key] = held
        return held

    async def note(self, held: LocalSession, **changes: object) -> None:
        """Keep a change of what revival has to repeat."""
        record = dataclasses.replace(held.record, **changes)  # type: ignore[arg-type]
        if sum(map(len, (record.level, *record.subscriptions))) > _MOST_NOTED:
            if not self._has_warned:
                self._has_warned = True
                logger.warning("A session subscribes to more than is kept; revival lacks the rest")
        elif record != held.record:
            held.record = record
            if held.is_kept:
                try:
                    async with held.noting:
                        # What was noted meanwhile is in it, whoever comes first.
                        await self._sessions.note(held.record)
                except StoreError as error:
                    logger.warning("What revival has to repeat is not kept: %s", error)

    async def end(self, held: LocalSession) -> None:
        """The client has deleted its session: it never comes back, anywhere.

        Raises:
            StoreError: the store does not know it yet, and is told again. Here it is deleted.
        """
        key = held.record.key
        self.drop(held)
        self._held.pop(key, None)
        telemetry.sessions.add(1, {"namespace": key.namespace, "event": "deleted"})
        self._deleted.add(key)
        await self.settle(key)

    async def settle(self, key: SessionKey) -> None:
        """See that the store knows of a deletion.

        Raises:
            StoreError: it still does not.
        """
        if key not in self._deleted:
            return
        try:
            await self._tell_deleted()
        except StoreError as error:
            logger.warning("The store does not know yet of a deleted session: %s", error)
            raise

    def refuse(self, alike: Hashable) -> None:
        """Who asks for a session like this has been seen not to own it."""
        self._refused[alike] = time.monotonic() + _REFUSED_SECONDS

    def was_refused(self, alike: Hashable) -> bool:
        """Whether that was a moment ago."""
        return self._refused.get(alike, 0.0) > time.monotonic()

    def drop(self, held: LocalSession) -> None:
        """The application has forgotten this one."""
        key, owned = held.record.key, self._owned.get(held.owner or "")
        if self._held.get(key) is held:
            del self._held[key]
        if owned is not None and owned.get(key) is held:
            del owned[key]
            if not owned:
                del self._owned[held.owner or ""]

    def forget(self, whose: Whose) -> None:
        """Hold nothing of somebody's sessions any more. They are unknown here from now on, whatever
        the application still knows."""
        for held in [*self._held.values(), *self._left.values()]:
            key = held.record.key
            if whose.has_session(key, held.record.principal):
                self.drop(held)
                self._left.pop(key, None)
                self._touched.discard(key)
                self._forgotten[key] = None
        for key in [
            k for k, (it, _) in self._seen.items() if it and whose.has_session(k, it.principal)
        ]:
            del self._seen[key]

    async def keep(self) -> None:
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

    async def _touch_used(self) -> None:
        touched, self._touched = self._touched, set()
        brief = {k for k in touched if (held := self._held.get(k)) is not None and held.is_brief}
        try:
            await self._touch(touched, brief, self._expiry(brief=True))
            await self._touch(touched, touched - brief, self._expiry())
        finally:
            self._touched.update(touched)
        idle = time.monotonic() - self._settings.session_ttl
        while self._held and (oldest := next(iter(self._held.values()))).used_at < idle:
            self.drop(oldest)
        for key in [key for key, left in self._left.items() if left.used_at < idle]:
            del self._left[key]

    async def _purge(self) -> None:
        while await self._sessions.purge(self._sessions.now(), _PURGED) == _PURGED:
            pass

    async def _touch(
        self, touched: set[SessionKey], some: set[SessionKey], expires_at: float
    ) -> None:
        waiting = list(some)
        for start in range(0, len(waiting), _MOST_TOUCHED):
            part = waiting[start : start + _MOST_TOUCHED]
            await self._sessions.touch(part, expires_at)
            touched.difference_update(part)

    def _hold(self, held: LocalSession) -> None:
        self._by_inner[held.record.key.path, held.inner] = held
        self._held[held.record.key] = held
        self._held.move_to_end(held.record.key)
        if len(self._held) > _MOST_HELD:
            self.drop(next(iter(self._held.values())))

    def _expiry(self, *, brief: bool = False) -> float:
        settings = self._settings
        longest = settings.brief_session_ttl if brief else settings.session_ttl
        return self._sessions.now() + min(longest, settings.session_ttl)

    async def _tell_deleted(self) -> None:
        for key in list(self._deleted):
            await self._sessions.delete(key, self._expiry())
            self._deleted.discard(key)
