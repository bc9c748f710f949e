"""A stream as the bytes that its client is sent."""

from collections.abc import Iterator

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.cursor import Page
from mcp_persist_middleware.model import Event, EventKind
from mcp_persist_middleware.protocol import sse
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.streams.read_point import ReadPoint

_CHUNK = 64 * 1024


class Renderer:
    """What one connection is sent, page by page.

    Args:
        retry_ms: how soon its client is asked to come back when nothing else is said.
    """

    def __init__(self, point: ReadPoint, era: Era, retry_ms: int) -> None:
        self.retry_ms = retry_ms
        self.delivered = 0
        """How many events it was sent."""
        self._point = point
        self._ids = point.ids
        self._may_prime = era.may_prime
        self._opening = self._prime()

    def _prime(self) -> bytes:
        """An event that has an id and no data, as the client's era allows."""
        if not self._may_prime:
            return b""
        make = self._ids.prime if self._point.resumed else self._ids.at
        return sse.priming(
            make(self._point.given or self._point.epoch, self._point.after), self.retry_ms
        )

    def open(self) -> bytes:
        """What opens the stream: it leaves with what comes first, and once."""
        opening, self._opening = self._opening, b""
        return opening

    def render(self, page: Page) -> Iterator[bytes]:
        """A page as body messages: many small events in one, a large event in several, of which
        one at a time is copied for this client."""
        parts, size = self._before(page), 0
        for event in page.events:
            if self._is_stale(event):
                continue
            if event.epoch:
                parts.append(sse.id_line(self._ids.at(event.epoch, event.sequence)))
            frame, after = event.frame, sse.CRLF
            if not (self.delivered or self._may_prime):
                after = b"retry: %d\r\n\r\n" % self.retry_ms
            self.delivered += 1
            size += len(frame)
            if len(frame) > _CHUNK:
                yield from _slices(b"".join(parts), frame, after)
            else:
                parts += (frame, after)
                if size < _CHUNK:
                    continue
                yield b"".join(parts)
            parts, size = [], 0
        if page.events and self._may_prime and self._is_stale(page.events[-1]):
            # Nor is it when that client comes back.
            last = self._ids.at(page.events[-1].epoch, page.events[-1].sequence)
            parts.append(sse.priming(last, self.retry_ms))
        if self._point.resumed and page.events:
            telemetry.replayed.add(len(page.events))
        if parts:
            yield b"".join(parts)

    def _before(self, page: Page) -> list[bytes]:
        """What the application says while it has no events, and what is said of events that a
        reader does not get."""
        said = [each for each in (self.open(), page.comment) if each]
        if page.missing:
            telemetry.gaps.add(page.missing)
            said.append(sse.comment(f"gap: {page.missing} events were removed by retention"))
        if page.passed:
            said.append(sse.comment(f"gap: {page.passed} events were sent before, without an id"))
        return said

    def _is_stale(self, event: Event) -> bool:
        """An old request of the server is not put to a client that does not ask for it."""
        until = self._point.suppress_requests_through
        return event.sequence <= until and event.kind is EventKind.REQUEST


def _slices(before: bytes, frame: bytes, after: bytes) -> Iterator[bytes]:
    """A large event by position. The last message ends it, as `CleanClose` has to see."""
    yield before + frame[:_CHUNK]
    last = (len(frame) - 1) // _CHUNK * _CHUNK
    for start in range(_CHUNK, last, _CHUNK):
        yield frame[start : start + _CHUNK]
    yield frame[last:] + after
