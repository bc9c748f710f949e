"""How far a feed has come, in each of its streams, and the cursor that says so.

Streams are numbered each in itself, and no store numbers the commits of all. So a cursor has the
position in every stream that may go on, and a time: of the streams that began before it all others
are done with. Those that began since and are done with are in it by a part of their ids, because
what others began at that time may be committed yet.
"""

import base64
import binascii
import enum
import hashlib
from typing import NamedTuple

from mcp_persist_middleware.errors import FeedError
from mcp_persist_middleware.protocol.event_id import TIME_BYTES

_VERSION, _CHECK = b"\x01", 8
_ID, _MARK = 16, 8
# A copy of all positions is made after so many changes at least.
_CHANGES = 1000
_NEVER = 1 << 62


class Standing(enum.IntEnum):
    """What becomes of a stream that was read so far."""

    OPEN = 0
    DONE = 1
    """It has ended, and was read to its end."""
    RESTING = 2
    """The same of a session's own stream, which may be opened again."""


StreamPosition = tuple[int, Standing]
"""The number of the last event that was given of a stream, and what becomes of it."""


class Marked(NamedTuple):
    """Streams that were done with when the cursor was made from which a feed began."""

    marks: frozenset[bytes] = frozenset()
    until: int = 0
    """They began before this time, in milliseconds."""


class _Journal:
    """Positions at a time, and every change since: each moment of them can still be told."""

    def __init__(self, floor: int, places: dict[bytes, StreamPosition], marked: "Marked") -> None:
        self._base = (floor, places)
        self.marked = marked
        self.changes: list[tuple[bytes, StreamPosition | None] | int] = []
        """A stream with its place, or the next floor."""
        # Nobody has asked yet.
        self._known = _NEVER
        self._floor, self._places = floor, places

    def at(self, moment: int) -> tuple[int, dict[bytes, StreamPosition]]:
        """The floor and the places after so many changes."""
        if moment < self._known:
            self._known, (self._floor, places) = 0, self._base
            self._places = dict(places)
        for change in self.changes[self._known : moment]:
            if isinstance(change, int):
                self._floor = change
            elif change[1] is None:
                self._places.pop(change[0], None)
            else:
                self._places[change[0]] = change[1]
        self._known = moment
        return self._floor, self._places


class Positions:
    """The positions of one feed.

    Args:
        key: of the check in a cursor: the store's secret, and what is followed.
    """

    def __init__(self, key: bytes, floor: int = 0) -> None:
        self._key = key
        self._floor = floor
        self.places: dict[bytes, StreamPosition] = {}
        self._begin(Marked())

    def _begin(self, marked: Marked) -> None:
        self._journal = _Journal(self.floor, dict(self.places), marked)

    @property
    def floor(self) -> int:
        """In milliseconds since the Unix epoch, as stream ids have it."""
        return self._floor

    @property
    def begin(self) -> bytes:
        """What comes before the id of every stream that began since the floor."""
        return self.floor.to_bytes(TIME_BYTES, "big")

    def knows(self, stream: bytes) -> bool:
        """Whether a stream that began after the floor was met before."""
        return stream in self.places or stream[-_MARK:] in self._journal.marked.marks

    def put(self, stream: bytes, place: StreamPosition | None) -> None:
        """A stream was read so far; None: it is gone."""
        if place is None:
            self.places.pop(stream, None)
        else:
            self.places[stream] = place
        self._note((stream, place))

    def raise_floor(self, floor: int) -> None:
        """Every stream that began before this time is known."""
        if floor <= self.floor:
            return
        self._floor = floor
        begin = self.begin
        done = [s for s, (_, is_) in self.places.items() if is_ is Standing.DONE and s < begin]
        for stream in done:
            del self.places[stream]
        self._note(floor)

    def _note(self, change: tuple[bytes, StreamPosition | None] | int) -> None:
        self._journal.changes.append(change)
        if len(self._journal.changes) > max(_CHANGES, len(self.places)):
            marked = self._journal.marked
            self._begin(marked if self.floor <= marked.until else Marked())

    def moment(self) -> "Moment":
        """As they are now, for as long as somebody wants to know."""
        return Moment(self._journal, len(self._journal.changes), self._key)

    @classmethod
    def of(cls, cursor: str, key: bytes) -> "Positions":
        """Those in a cursor.

        Raises:
            FeedError: it is none of these.
        """
        try:
            body = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            body = b""
        begin = len(_VERSION) + _CHECK
        if body[:1] != _VERSION or body[1:begin] != _check(body[begin:], key):
            raise FeedError(
                reason=f"{cursor[:24]!r}… is neither 'now' nor 'start' nor a cursor of this "
                "store for the same stream=, session= and namespace="
            )
        found = cls(key, int.from_bytes(body[begin : begin + TIME_BYTES], "big"))
        found._read(body, begin + TIME_BYTES)
        return found

    def _read(self, body: bytes, at: int) -> None:
        until = int.from_bytes(body[at : at + TIME_BYTES], "big")
        count, at = _number(body, at + TIME_BYTES)
        end = at + count * _MARK
        marks = frozenset(body[n : n + _MARK] for n in range(at, end, _MARK))
        while end < len(body):
            stream = body[end : end + _ID]
            value, end = _number(body, end + _ID)
            self.places[stream] = (value >> 2, Standing(value & 3))
        self._begin(Marked(marks, until))


class Moment:
    """Positions as they were: makes the cursor when it is asked for."""

    __slots__ = ("_changes", "_journal", "_key")

    def __init__(self, journal: _Journal, changes: int, key: bytes) -> None:
        self._journal = journal
        self._changes = changes
        self._key = key

    def cursor(self) -> str:
        """All of `[A-Za-z0-9_-]`."""
        floor, places = self._journal.at(self._changes)
        marks, until = self._journal.marked
        begin = floor.to_bytes(TIME_BYTES, "big")
        done = [s for s, (_, is_) in places.items() if is_ is Standing.DONE and s >= begin]
        if floor > until:
            marks = frozenset()
        newest = max([begin, *[stream[:TIME_BYTES] for stream in done]])
        if marks:
            newest = max(newest, until.to_bytes(TIME_BYTES, "big"))
        goes_on = [(s, n << 2 | is_) for s, (n, is_) in places.items() if is_ is not Standing.DONE]
        body = b"".join(
            (
                *(begin, newest, _varint(len(done) + len(marks))),
                *[stream[-_MARK:] for stream in done],
                *marks,
                *[stream + _varint(value) for stream, value in goes_on],
            )
        )
        whole = _VERSION + _check(body, self._key) + body
        return base64.urlsafe_b64encode(whole).rstrip(b"=").decode()


def _check(body: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(body, key=key[:64], digest_size=_CHECK).digest()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(body: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = shift = 0
    while True:
        byte = body[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
