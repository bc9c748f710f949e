"""The two ends of a copy: a store's rows, read and written many at a time, without a worker of its
own and with as little of the server's machinery as that takes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from mcp_persist_middleware.ops.copy.rows import (
    EVERYTHING,
    Beside,
    Changes,
    EventKey,
    EventRow,
    Extent,
    Key,
    Row,
    Selection,
)


class Readable(ABC):
    """A store that can be copied. Every method raises `StoreError` when the store does not do
    it."""

    name: str
    """Its address without secrets."""

    @abstractmethod
    async def open(self) -> bool:
        """Connect; whether there is a store."""

    @abstractmethod
    async def aclose(self) -> None:
        """Disconnect. May be called at any time, twice too."""

    @abstractmethod
    async def now(self) -> float:
        """The time in the store: by it things have expired."""

    @abstractmethod
    async def meta(self) -> Mapping[str, bytes]:
        """What the store says of itself: `store` is its identity, `secret` the key of its
        hashes."""

    @abstractmethod
    async def count(self) -> int:
        """How many streams there are."""

    @abstractmethod
    async def workers(self) -> Mapping[str, int]:
        """The heartbeat counters of the workers on it that may be alive."""

    @abstractmethod
    async def streams(
        self,
        after: bytes,
        limit: int,
        *,
        is_open: bool = False,
        only: Selection = EVERYTHING,
    ) -> Sequence[Row]:
        """The first streams whose id is above another, in their order; or of those the open
        ones."""

    @abstractmethod
    async def request(self, stream: bytes) -> bytes | None:
        """The request that a stream keeps, as it is stored."""

    @abstractmethod
    async def find_streams(self, ids: Sequence[bytes]) -> Mapping[bytes, Row]:
        """Those of these streams that are there."""

    @abstractmethod
    def kept(self) -> Sequence[Beside]:
        """The tables beside those of streams and events that it has."""

    @abstractmethod
    async def rows(
        self, table: Beside, after: Key | None, limit: int, only: Selection = EVERYTHING
    ) -> Sequence[Row]:
        """The first rows of a table behind one, in some order of the store's own; none of a table
        that it has not."""

    @abstractmethod
    async def find_rows(self, table: Beside, keys: Sequence[Key]) -> Mapping[Key, Row]:
        """Those of these rows that are there."""

    @abstractmethod
    async def has_key(self, job: Row) -> bool:
        """Whether a job has the key of this one."""

    @abstractmethod
    async def events(
        self, after: EventKey, until: bytes, max_events: int, max_bytes: int
    ) -> Sequence[EventRow]:
        """The first events behind a position and in streams up to one: as many as fit, at least
        one if there is one. Several streams may share a page."""

    @abstractmethod
    async def extents(self, bounds: Mapping[bytes, int]) -> Mapping[bytes, Extent]:
        """How much there is of these streams up to a number each."""

    @abstractmethod
    async def numbers(self, stream: bytes, until: int) -> Sequence[int]:
        """The numbers of a stream's events up to one."""


class Writable(Readable):
    """A store that can be copied into."""

    @abstractmethod
    async def begin(self, old: bytes | None, new: bytes, secret: bytes) -> bool:
        """Put a note in the place of another in the table `meta`, None for none: then into an empty
        store, whose hashes are made with this secret from then on. False when another note is
        there, or something is in the store."""

    @abstractmethod
    async def apply(self, changes: Changes, notes: tuple[bytes, bytes] | None) -> None:
        """Change the store and the note, from one to another, in one transaction; None: a store
        without a note.

        Raises:
            CopyError: the note is another one; nothing is changed.
        """
