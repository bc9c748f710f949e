"""A question of our own to the application, in the name of a client."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Scope, Send

from mcp_persist_middleware.asgi import attempt
from mcp_persist_middleware.asgi.scope import EXTENSION
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.supervision import scoped

REFUSALS = frozenset({401, 403, 421, 429})
"""The application's own word on the caller, or on its own state: the client has to hear it."""
MAX_ANSWER = 1024 * 1024
"""The largest answer to a question of ours (bytes); of a larger one the head alone is used."""

_TIMEOUT, _AFTERWARDS = 30.0, 1.0
_OF_THE_BODY = (b"content-length", b"content-type", b"content-encoding", b"transfer-encoding")
_NOT_COPIED = (
    headers.LAST_EVENT_ID,
    b"content-length",
    b"content-type",
    b"transfer-encoding",
    b"accept",
    b"accept-encoding",
)


def cancellation() -> bytes:
    """A message that changes nothing and that nobody can find fault with: the cancellation of a
    request that does not exist."""
    params = {"requestId": f"probe-{secrets.token_hex(8)}"}
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
    return json.dumps(message, separators=(",", ":")).encode()


def question(scope: Scope, method: str, *, without: tuple[bytes, ...] = ()) -> Scope:
    """The scope of a request of ours in the name of a client: its headers, its credentials."""
    raw = headers.without(scope["headers"], *_NOT_COPIED, *without)
    raw.append((b"accept", b"application/json, text/event-stream"))
    if method == "POST":
        raw.append((b"content-type", b"application/json"))
    extensions = dict(scope.get("extensions", {}))
    extensions[EXTENSION] = dict(extensions.get(EXTENSION, {}))
    return {**scope, "method": method, "headers": raw, "extensions": extensions}


async def probe_caller(
    app: ASGIApp,
    scope: Scope,
    *,
    revives: bool = False,
    without: tuple[bytes, ...] = (),
    instead: headers.RawHeaders = (),
) -> tuple[Scope, "Answer"]:
    """Ask the application about a caller with a message that changes nothing, in the caller's name.

    The answer, and the scope that the application's authentication has had.

    Args:
        revives: whether a session that is not here may be brought back for it.
        without: headers that are left out.
        instead: headers that are added.
    """
    asked = question(scope, "POST", without=without)
    asked["headers"] += instead
    told = asked["extensions"][EXTENSION]
    if not revives:
        told.pop("session", None)
        told["probe"] = True
    return asked, await ask(app, asked, cancellation())


@dataclass(slots=True)
class Answer:
    """What the application said to a question."""

    messages: list[Message] = field(default_factory=list)
    """The ASGI messages of its response, or a plain 500 or 504 when it gave none."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> headers.RawHeaders:
        """The head's headers."""
        found: headers.RawHeaders = self.messages[0].get("headers", [])
        return found

    @property
    def body(self) -> bytes:
        """What is known of the body."""
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here."""
        last = self.messages[-1]
        return last["type"] == "http.response.body" and not last.get("more_body", False)

    async def pass_on(self, send: Send) -> None:
        """Give it to the client, unchanged; of one that is not whole the head, with no body."""
        if self.is_whole:
            for message in self.messages:
                await send(message)
            return
        raw = headers.without(self.headers, *_OF_THE_BODY)
        head = {**self.messages[0], "headers": [*raw, (b"content-length", b"0")]}
        await send(head)
        await send({"type": "http.response.body", "body": b""})


async def ask(
    app: ASGIApp, scope: Scope, body: bytes, *, until: Callable[[bytes], bool] | None = None
) -> Answer:
    """Put a question to the application and wait for its answer, for half a minute at most.

    An event stream is left as soon as it has begun, or, with `until`, as soon as what has come
    of it satisfies that. Whatever the application raises is raised.
    """
    listener = _Listener(body, until)
    with scoped(_run(app, scope, listener), "mcp-persist-question") as running:
        running.add_done_callback(lambda _: listener.known.set())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                await listener.known.wait()
        # What an application does behind its answer to a notification is not cut short.
        await asyncio.wait({running}, timeout=_AFTERWARDS)
        if running.done():
            running.result()
    return listener.answer if listener.answer.messages else _silence(500 if running.done() else 504)


async def _run(app: ASGIApp, scope: Scope, listener: "_Listener") -> None:
    with attempt.beside():
        await app(scope, listener.receive, listener)


class _Listener:
    """The client's side of a question."""

    def __init__(self, body: bytes, until: Callable[[bytes], bool] | None) -> None:
        self._request: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._until = until
        self._size = 0
        self._is_stream = False
        self.known = asyncio.Event()
        """All that has to be known is known; the application may hear that we have left."""
        self.answer = Answer()

    async def receive(self) -> Message:
        if self._request is not None:
            message, self._request = self._request, None
            return message
        await self.known.wait()
        return {"type": "http.disconnect"}

    async def __call__(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start":
                self.answer.messages.append(message)
                status, raw = message["status"], message.get("headers", [])
                self._is_stream = headers.is_event_stream(status, raw)
                if self._is_stream and self._until is None:
                    self.known.set()
            case "http.response.body":
                self._size += len(message.get("body", b""))
                is_too_large = self._size > MAX_ANSWER
                if not is_too_large:
                    self.answer.messages.append(message)
                if is_too_large or not message.get("more_body", False) or self._is_enough():
                    self.known.set()

    def _is_enough(self) -> bool:
        return self._is_stream and self._until is not None and self._until(self.answer.body)


def _silence(status: int) -> Answer:
    head = {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-length", b"0")],
    }
    return Answer([head, {"type": "http.response.body", "body": b""}])
