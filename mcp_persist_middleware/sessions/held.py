"""The sessions that a worker holds, as its memory has them; the store is not asked."""

import time
import weakref
from collections import OrderedDict

from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import SessionKey, SessionRecord
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.sessions.local import LocalSession

_MOST_HELD = 100_000
_MOST_ERASED = 10_000


class HeldSessions:
    """Sessions by the ids that clients know them by, the one that was used last at the end."""

    def __init__(self) -> None:
        self.touched: set[SessionKey] = set()
        """Those that were used since the store was told so last."""
        self.left: dict[SessionKey, LocalSession] = {}
        """What the worker before this one held and nobody has asked for since."""
        self.erased: Recent[SessionKey, None] = Recent(_MOST_ERASED)
        """Sessions that were erased: the application may know them still, and is not asked."""
        self._all: OrderedDict[SessionKey, LocalSession] = OrderedDict()
        self._by_inner: weakref.WeakValueDictionary[tuple[str, str], LocalSession] = (
            weakref.WeakValueDictionary()
        )
        self._owned: dict[str, OrderedDict[SessionKey, LocalSession]] = {}
        """What the store keeps of each owner, the one that was used last at the end."""

    def inherit(self, before: "HeldSessions") -> None:
        """The application has all that the worker before this one held."""
        self.erased.update(before.erased)
        # Those that were used last, however often the lease is lost.
        known = list((before.left | before._all).items())  # noqa: SLF001
        for key, held in known[-_MOST_HELD:]:
            held.site = None
            if held.is_kept:
                self.left[key] = held
                self._by_inner[key.path, held.inner] = held
            else:
                # Of what the store does not know nobody else can have heard.
                self.add(held)

    def get(self, key: SessionKey) -> LocalSession | None:
        """The session, if it is held here."""
        return self._all.get(key)

    def use(self, key: SessionKey) -> LocalSession | None:
        """The same; it counts as used now."""
        found = self._all.get(key)
        if found is not None:
            found.used_at = time.monotonic()
            self._all.move_to_end(key)
            if found.is_kept:
                self.touched.add(key)
            if (owned := self._owned.get(found.owner or "")) is not None and key in owned:
                owned.move_to_end(key)
        return found

    def add(self, held: LocalSession) -> None:
        """One more; of too many the one that was idle for longest goes."""
        key = held.record.key
        self._by_inner[key.path, held.inner] = held
        self._all[key] = held
        self._all.move_to_end(key)
        if len(self._all) > _MOST_HELD:
            self.drop(next(iter(self._all.values())))

    def count(self, owner: str, held: LocalSession) -> int:
        """One more that the store keeps of this owner; how many these are."""
        owned = self._owned.setdefault(owner, OrderedDict())
        owned[held.record.key] = held
        return len(owned)

    def crowd_out(self, owner: str) -> SessionKey:
        """The store keeps the owner's longest idle one no more; here it lives on."""
        key, oldest = self._owned[owner].popitem(last=False)
        oldest.is_kept = False
        self.touched.discard(key)
        return key

    def drop(self, held: LocalSession) -> None:
        """The application has forgotten this one."""
        key, owned = held.record.key, self._owned.get(held.owner or "")
        if self._all.get(key) is held:
            del self._all[key]
        if owned is not None and owned.get(key) is held:
            del owned[key]
            if not owned:
                del self._owned[held.owner or ""]

    def erase(self, whose: Whose) -> None:
        """Hold nothing of somebody's any more."""
        for held in [*self._all.values(), *self.left.values()]:
            key = held.record.key
            if whose.has_session(key, held.record.principal):
                self.drop(held)
                self.left.pop(key, None)
                self.touched.discard(key)
                self.erased[key] = None

    def drop_idle(self, seconds: float) -> None:
        """Forget what nobody has used for so long."""
        since = time.monotonic() - seconds
        while self._all and (oldest := next(iter(self._all.values()))).used_at < since:
            self.drop(oldest)
        for key in [key for key, left in self.left.items() if left.used_at < since]:
            del self.left[key]

    def is_left(self, record: SessionRecord) -> bool:
        """Whether the worker before this one held it, and no other has taken it over meanwhile:
        then the application has it still, with its state."""
        left = self.left.get(record.key)
        return left is not None and left.record.generation == record.generation

    def is_inner(self, key: SessionKey) -> bool:
        """Whether the application gave this id to a session that has another public one."""
        found = self._by_inner.get((key.path, key.id))
        return found is not None and found.record.key != key
