"""Server-sent events as bytes: an incremental splitter that keeps what it does not understand.

Lines end with CRLF, LF or CR and with nothing else (U+2028 is data). A frame is stored with its
own lines in their own order; only `id:` is taken out, since ids are ours to give.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

import re
from dataclasses import dataclass

from mcp_persist_middleware.errors import EventTooLargeError

CRLF = b"\r\n"
_BOM = b"\xef\xbb\xbf"
# Atomic, so that CRLF is never taken apart into two line ends.
_BLOCK_END = re.compile(rb"(?>\r\n|\r|\n){2}")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_COMMON = b"event: message\r\ndata: "
_MAX_COMMENT = 4096
# Whole lines at the head of a block that are no part of an event yet; a CR at the very end may be
# half of a CRLF.
_QUIET = re.compile(rb"(?:(?::[^\r\n]*)?(?>\r\n|\n|\r(?!\Z)))+")
_KEEP_ALIVE = b":" + CRLF
_PINGS = (b": ping", _KEEP_ALIVE)


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as it goes to the client, less its id and the blank line that ends it."""

    raw: bytes
    data: bytes


class FrameParser:
    """Cuts a byte stream into frames, whatever its chunks; linear in the bytes fed."""

    def __init__(self, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        self._buffer = bytearray()
        self._scanned = 0
        self._skip_newline = False
        self._begun = False
        self._comments: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that are complete with this chunk.

        Raises:
            EventTooLargeError: an unfinished event outgrew `max_event_bytes`.
        """
        if self._skip_newline and chunk:
            self._skip_newline = False
            chunk = chunk.removeprefix(b"\n")
        source: bytes | bytearray = chunk
        if self._buffer or not self._begun:
            self._buffer += chunk
            if not self._begin():
                return []
            source = self._buffer
        frames, start = [], 0
        for end in [match.end() for match in _BLOCK_END.finditer(source, self._scanned)]:
            frame = self._frame(bytes(source[start:end]))
            if frame is not None:
                frames.append(frame)
            start = end
        self._keep(source, start)
        return frames

    def _begin(self) -> bool:
        if not self._begun:
            if _BOM.startswith(self._buffer) and len(self._buffer) < len(_BOM):
                return False
            self._begun = True
            if self._buffer.startswith(_BOM):
                del self._buffer[: len(_BOM)]
        return True

    def _keep(self, source: bytes | bytearray, start: int) -> None:
        # A CR that ended a block may be the first half of a CRLF.
        self._skip_newline = 0 < start == len(source) and source[-1:] == b"\r"
        if source is self._buffer:
            del self._buffer[:start]
        elif start < len(source):
            self._buffer = bytearray(source[start:])
        self._scanned = max(0, len(self._buffer) - 3)
        if len(self._buffer) > self._max:
            raise EventTooLargeError(limit=self._max)

    def _frame(self, block: bytes) -> Frame | None:
        if (
            block.startswith(_COMMON)
            and len(block) > len(_COMMON) + 4
            and not self._comments
            and block.find(b"\r", len(_COMMON)) == len(block) - 4
            and block.find(b"\n", len(_COMMON)) == len(block) - 3
        ):
            return Frame(block[:-2], block[len(_COMMON) : -4])
        return self._frame_of_lines([line for line in _LINE_END.split(block) if line])

    def _frame_of_lines(self, lines: list[bytes]) -> Frame | None:
        kept, data = [], []
        for line in lines:
            name, _, value = line.partition(b":")
            if name == b"id":
                continue
            if name == b"data":
                data.append(value.removeprefix(b" "))
            # Go clients reject a field line without a colon; the meaning is the same.
            kept.append(line if b":" in line else line + b": ")
        if not any(data):
            # Priming events of the application end here (we send our own); an empty event that
            # gives no id is there to be heard.
            is_keep_alive = bool(data) and len(kept) == len(lines)
            self._set_aside(kept, otherwise=_KEEP_ALIVE if is_keep_alive else b"")
            return None
        raw = b"".join(line + CRLF for line in kept)
        if self._comments:
            remarks = [each for each in self._comments if not each.startswith(_PINGS)]
            raw, self._comments = b"".join([*remarks, raw]), []
        return Frame(raw, b"\n".join(data))

    def _set_aside(self, lines: list[bytes], otherwise: bytes = b"") -> None:
        """Keep the comments of a block that has no event; the newest, if they are too many."""
        said = b"".join(line + CRLF for line in lines if line.startswith(b":")) or otherwise
        if said:
            self._comments.append(said)
        while sum(map(len, self._comments)) > _MAX_COMMENT:
            del self._comments[0]

    def comments(self) -> bytes:
        """Take the comments after the last event, with the blank line that ends them; nothing
        when there are none. Those that are left here travel with the next event, less the
        keep-alives.
        """
        if not self._comments and not self._buffer:
            return b""
        if quiet := _QUIET.match(self._buffer):
            self._set_aside(_LINE_END.split(bytes(quiet[0])))
            del self._buffer[: quiet.end()]
            self._scanned = max(0, len(self._buffer) - 3)
        taken, self._comments = self._comments, []
        return b"".join([*taken, CRLF]) if taken else b""


def event(data: bytes) -> bytes:
    """The frame of a message, as the SDKs write it."""
    lines = b"".join(b"data: " + line + CRLF for line in _LINE_END.split(data))
    return b"event: message" + CRLF + lines


def data_of(frame: bytes) -> bytes:
    """The message in a frame that was stored; empty when there is none."""
    frames = FrameParser(len(frame) + 4).feed(frame + CRLF)
    return frames[0].data if frames else b""


def priming(event_id: bytes, retry_ms: int) -> bytes:
    """The event that opens a stream: an id, no data (with its colon: Go clients need it), and
    how long to wait before coming back (SEP-1699)."""
    return b"id: %s\r\ndata: \r\nretry: %d\r\n\r\n" % (event_id, retry_ms)


def retry(milliseconds: int) -> bytes:
    """A reconnection time on its own."""
    return b"retry: %d\r\n\r\n" % milliseconds


def comment(text: str) -> bytes:
    """A line that clients ignore and proxies count as traffic."""
    return b": " + text.encode() + b"\r\n\r\n"


def id_line(event_id: bytes) -> bytes:
    """What goes before a frame on the wire; a blank line goes behind it."""
    return b"id: " + event_id + CRLF
