"""Those to whom answers go: a client whose connection is here, or one of another worker, which is
answered through the log and in one reply."""

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod

from starlette.types import Message, Receive, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import Event, EventKind, StreamKind
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.relay.envelope import BufferedResponse, Reply, StreamResponse
from mcp_persist_middleware.streams import expiry, listen, resume, serve
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.deliver import Delivery
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.streams.read_point import ReadPoint
from mcp_persist_middleware.streams.session_stream import key_of
from mcp_persist_middleware.streams.state import Opened
from mcp_persist_middleware.tasks.hand_back import HandBack
from mcp_persist_middleware.tasks.hand_back_offers import DistantOffer
from mcp_persist_middleware.tasks.joinable import JoinableCall

_CREATED_SECONDS = 1.0
# An answer that has ended within so long (seconds), or is being committed, travels with the word
# that it is there, if it is not larger than this.
_SOON, _COMMIT, _SMALL = 0.004, 0.05, 16 * 1024


class Recipient(Client, ABC):
    """A client, as the one to whom an answer goes.

    Args:
        receive: what is left to hear of it.
        send: takes an answer that is no stream of ours.
    """

    def __init__(self, context: Context, receive: Receive, send: Send) -> None:
        super().__init__(receive)
        self.context = context
        self.send = send

    is_here = False
    """Whether its connection is this worker's: then its answer may reach it ahead of its commit."""
    repeatable: JoinableCall | None = None
    """Its call, if that may be for what an earlier one has begun; not known of a client of another
    worker."""

    @abstractmethod
    async def read(self, asked: Asked, running: Exchange, opened: Opened) -> None:
        """The answer is this stream, from its beginning."""

    @abstractmethod
    async def follow(self, asked: Asked, point: ReadPoint) -> None:
        """The answer is the session's stream, from this point on."""

    @abstractmethod
    async def read_on(self, asked: Asked) -> None:
        """The answer is the stream that the client had begun to read: this request was run again
        for it."""


class LocalClient(Recipient):
    """One whose connection is here."""

    is_here = True

    async def read(self, asked: Asked, running: Exchange, opened: Opened) -> None:
        """Deliver it."""
        await serve.deliver(self.context, running, opened, asked.scope, self, self.send)

    async def follow(self, asked: Asked, point: ReadPoint) -> None:
        """Deliver it, to this one before all others."""
        key, era = key_of(asked.scope, asked.request.session), asked.request.era
        await listen.follow(self.context, key, point, asked.scope, era, self, self.send)

    async def read_on(self, asked: Asked) -> None:
        """Deliver what the client has not seen of it."""
        resumed = asked.resume
        assert resumed is not None
        await resume.go_on(self.context, resumed.scope, resumed.request, self.rest, self.send)

    async def read_reply(self, asked: Asked, reply: StreamResponse | BufferedResponse) -> None:
        """Deliver what another worker has answered."""
        match reply:
            case BufferedResponse(status, head, body):
                start = {"type": "http.response.start", "status": status, "headers": list(head)}
                await self.send(start)
                await self.send({"type": "http.response.body", "body": body})
            case StreamResponse(kind=StreamKind.GET):
                expiry.put(asked.scope, reply.expires_at)
                record = None
                with contextlib.suppress(StoreError):
                    record = await self.context.log.find(reply.stream)
                epoch = record.epoch if record is not None else 1
                await self.follow(asked, _point(reply, epoch))
            case _:
                cursor = asked.resume.request.cursor if asked.resume is not None else None
                # What it has may be of a run that was not the first.
                point = _point(reply, cursor.epoch if cursor is not None else 1)
                with point.present(self.context):
                    call, handoff = self.repeatable, None
                    if isinstance(call, HandBack):
                        handoff = DistantOffer.of(call, reply.stream)
                    delivery = Delivery(self.context, point, asked.request.era, handoff=handoff)
                    await delivery.run(asked.scope, self._leave, self.send)

    async def _leave(self) -> Message:
        # As for a client whose stream is here.
        message = await self.receive()
        await asyncio.sleep(asgi.HALF_CLOSED)
        return message


class RelayedClient(Recipient):
    """One of another worker, which hears nothing before `reply` is there, and then all of it."""

    def __init__(self, context: Context, receive: Receive) -> None:
        super().__init__(context, receive, self._collect)
        self._limit = context.settings.max_event_bytes
        self._status = 500
        self._head: headers.RawHeaders = []
        self._body = bytearray()
        self._stream: StreamResponse | None = None

    @property
    def reply(self) -> Reply:
        """The answer; of one that is no stream all of it, or the word that it is too large."""
        if self._stream is not None:
            return self._stream
        if len(self._body) > self._limit:
            return BufferedResponse(502, [(b"content-length", b"0")], b"")
        return BufferedResponse(self._status, self._head, bytes(self._body))

    async def read(self, asked: Asked, running: Exchange, opened: Opened) -> None:
        """Its worker finds it in the log, or has all of it at once."""
        stream, call = opened.stream, asked.request.call
        events = await _at_once(stream)
        if not events:
            await _created(self.context, stream)
            events = await _unheard_of(stream)
        # Nobody reads it here: from now on only a reader elsewhere keeps it alive.
        stream.detach()
        number = call.request_id if call is not None else None
        name, kind = stream.record.id, running.kind
        self._stream = StreamResponse(name, kind, number, opened.head, events=events)

    async def follow(self, asked: Asked, point: ReadPoint) -> None:
        """Its worker goes on in the log."""
        if point.live is not None:
            await _created(self.context, point.live)
        head = list(point.head) or _named(asked)
        place = point.after, point.resumed, point.suppress_requests_through
        ends = expiry.noted(asked.scope)
        self._stream = StreamResponse(
            point.stream, StreamKind.GET, None, head, *place, expires_at=ends
        )

    async def read_on(self, asked: Asked) -> None:
        """Its worker goes on in the log, behind the cursor that it knows."""
        at = asked.resume.request.cursor if asked.resume is not None else None
        assert at is not None
        number, head = at.request_id, _named(asked)
        self._stream = StreamResponse(at.stream, at.kind, number, head, at.sequence, joined=True)

    async def _collect(self, message: Message) -> None:
        """Take what the application sends."""
        if message["type"] == "http.response.start":
            self._status, self._head = message["status"], message.get("headers", [])
        elif message["type"] == "http.response.body" and len(self._body) <= self._limit:
            self._body += message.get("body", b"")


def _point(reply: StreamResponse, epoch: int = 1) -> ReadPoint:
    """Where a client begins to read what another worker has answered."""
    return ReadPoint(
        EventIds.of(reply.stream, reply.kind, reply.request_id),
        reply.after,
        is_open=not reply.events,
        epoch=epoch,
        resumed=reply.joined,
        told=reply.events,
        suppress_requests_through=reply.suppress_requests_through,
        head=list(reply.head),
    )


def _named(asked: Asked) -> list[tuple[bytes, bytes]]:
    return [(headers.SESSION_ID, asked.request.session.encode("latin-1"))]


async def _created(context: Context, stream: LiveStream) -> None:
    """A reader elsewhere finds a stream only in the store."""
    context.writer.hurry(stream)
    while not (stream.created or stream.degraded or stream.ended):
        await stream.signal.wait(_CREATED_SECONDS)


async def _unheard_of(stream: LiveStream) -> tuple[Event, ...]:
    """All events of a stream that the store has never heard of: nobody could read it there."""
    if stream.created or not stream.degraded:
        return ()
    while not stream.ended:
        await stream.signal.wait(_CREATED_SECONDS)
    return tuple(stream.tail_after(0) or ())


async def _at_once(stream: LiveStream) -> tuple[Event, ...]:
    """All events of a stream that ends at once: committed, so that nobody need read them in the
    store."""
    until = time.monotonic() + _SOON
    while not (stream.ended or stream.degraded):
        events = stream.tail_after(0) or []
        if events and stream.ending is None and events[-1].kind is not EventKind.RESPONSE:
            # It goes on, and its reader waits for this.
            return ()
        left = until + (0.0 if stream.ending is None else _COMMIT) - time.monotonic()
        if left <= 0:
            return ()
        await stream.signal.wait(left)
    events = stream.tail_after(0) or []
    is_small = sum(len(event.frame) for event in events) <= _SMALL
    return tuple(events) if is_small and not stream.degraded else ()
