"""The id that an event carries on the wire: a cursor a client can hold.

`<stream><kind>-<epoch>-<sequence>-<request id>[-<nonce>]`, all of `[A-Za-z0-9_-]` and under 128
characters. It is opaque to clients and proves nothing: it is looked up only after authorisation.
"""

import base64
import binascii
import re
import secrets
import time
from dataclasses import dataclass

from mcp_persist_middleware.model import RequestId, StreamKind

_STREAM_BYTES, _NAME = 16, 22
TIME_BYTES = 6
"""So many bytes of a stream's id, its first, say when it was made."""
# The longest that fit: a UUID as text does, and an id of ours has 126 characters at most.
_MAX_ID_TEXT, _MAX_DIGITS = 41, 66
_NO_ID = "x"

_PATTERN = re.compile(
    r"(?P<stream>[A-Za-z0-9_-]{22})(?P<kind>[pg])-(?P<epoch>[0-9]{1,9})-(?P<sequence>[0-9]{1,15})"
    r"-(?P<request>x|i[0-9]{1,66}|n[0-9]{1,66}|s[a-z2-7]{0,66})(?:-[a-f0-9]{1,8})?",
    re.ASCII,
)


def new_stream_id(now: float | None = None) -> bytes:
    """48 bits of milliseconds and 80 random bits: time-ordered, not guessable.

    Args:
        now: the time in the store, where another worker may ask how old it is.
    """
    begin = earliest(time.time() if now is None else now)
    return begin + secrets.token_bytes(_STREAM_BYTES - TIME_BYTES)


def earliest(at: float) -> bytes:
    """What comes before every stream id that is made at a time or later."""
    return max(0, int(at * 1000)).to_bytes(TIME_BYTES, "big")


def created_at(stream: bytes) -> float:
    """When a stream id was made, in seconds since the Unix epoch."""
    return int.from_bytes(stream[:TIME_BYTES], "big") / 1000


@dataclass(frozen=True, slots=True)
class Position:
    """A parsed event id: what a client says it has seen last."""

    stream: bytes
    kind: StreamKind
    epoch: int
    sequence: int
    request_id: RequestId


def name_of(stream: bytes) -> str:
    """A stream's id as clients see it in event ids."""
    return base64.urlsafe_b64encode(stream).rstrip(b"=").decode()


def stream_of(text: str) -> bytes | None:
    """The stream that a name or an event id is of; None where it is neither."""
    if (position := parse(text)) is not None:
        return position.stream
    try:
        found = base64.b64decode(text + "==", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if len(text) == _NAME and len(found) == _STREAM_BYTES else None


def parse(text: str) -> Position | None:
    """The position in an event id of ours, or None for every other string."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        return None
    try:
        return Position(
            stream=base64.urlsafe_b64decode(match["stream"] + "=="),
            kind=StreamKind(match["kind"]),
            epoch=int(match["epoch"]),
            sequence=int(match["sequence"]),
            request_id=_decode_request_id(match["request"]),
        )
    except (ValueError, binascii.Error):
        return None


@dataclass(frozen=True, slots=True)
class EventIds:
    """Mints the event ids of one stream."""

    stream: bytes
    kind: StreamKind
    head: bytes
    tail: bytes

    @classmethod
    def of(cls, stream: bytes, kind: StreamKind, request_id: RequestId) -> "EventIds":
        """The ids of a stream. A request id that is too long to carry is left out."""
        name = base64.urlsafe_b64encode(stream).rstrip(b"=")
        tail = b"-" + _encode_request_id(request_id).encode()
        return cls(stream, kind, name + kind.encode() + b"-", tail)

    @property
    def name(self) -> str:
        """The stream's part of its ids."""
        return self.head[:_NAME].decode()

    def at(self, epoch: int, sequence: int) -> bytes:
        """The id of the event with this number."""
        return b"%s%d-%d%s" % (self.head, epoch, sequence, self.tail)

    def prime(self, epoch: int, sequence: int) -> bytes:
        """A fresh id for the same position: a resumed stream must begin with a new one."""
        return self.at(epoch, sequence) + b"-" + secrets.token_hex(4).encode()


def _encode_request_id(value: RequestId) -> str:
    match value:
        case bool() | None | float():
            return _NO_ID
        case int() if abs(value) < 10**_MAX_DIGITS:
            return f"i{value}" if value >= 0 else f"n{-value}"
        case str() if len(raw := value.encode("utf-8", "surrogatepass")) <= _MAX_ID_TEXT:
            return "s" + base64.b32encode(raw).decode().rstrip("=").lower()
        case _:
            return _NO_ID


def _decode_request_id(text: str) -> RequestId:
    kind, rest = text[0], text[1:]
    match kind:
        case "i":
            return int(rest)
        case "n":
            return -int(rest)
        case "s":
            padded = rest.upper() + "=" * (-len(rest) % 8)
            return base64.b32decode(padded).decode("utf-8", "surrogatepass")
        case _:
            return None
