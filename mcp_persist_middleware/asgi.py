"""What every part knows of the application: where a request goes, and how to ask the application
something of our own."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Scope, Send

from mcp_persist_middleware import attempt
from mcp_persist_middleware.model import Place, surely
from mcp_persist_middleware.protocol import headers

EXTENSION = "mcp_persist"
REFUSALS = frozenset({401, 403, 421, 429})
"""The application's own word on the caller, or on its own state: the client has to hear it."""
HALF_CLOSED = 1.0
"""Some servers tell of a client that has closed its half of the connection, and reads on, as of one
that has gone: what comes within so many seconds is sent all the same."""
"""The key in `scope["extensions"]` under which the application finds what it is told."""

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


def path_of(scope: Scope) -> str:
    """The full path of a request, mounts included (Starlette keeps the mount in both). A slash at
    its end makes no other place of it: applications redirect from the one to the other, and a
    client goes on with the one that it was given."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    full = path if path.startswith(root) else root + path
    return full.rstrip("/") or "/"


def place_of(scope: Scope) -> Place:
    """The namespace and the full path of a request that the middleware has let in."""
    return Place(scope["extensions"][EXTENSION]["namespace"], path_of(scope))


def account_of(scope: Scope, principal: str) -> str:
    """Whose a request is when what one caller has is counted: the principal's, or, where there is
    none, the address's that it comes from."""
    client = scope.get("client")
    return surely(principal) or (f"@{client[0]}" if client else "@")


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
    with attempt.beside():
        running: asyncio.Future[None] = asyncio.ensure_future(
            app(scope, listener.receive, listener)
        )
    running.add_done_callback(lambda _: listener.known.set())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                await listener.known.wait()
        # What an application does behind its answer to a notification is not cut short.
        await asyncio.wait({running}, timeout=_AFTERWARDS)
        if running.done():
            running.result()
    finally:
        running.cancel()
    return listener.answer if listener.answer.messages else _silence(500 if running.done() else 504)


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


async def unavailable(send: Send, text: str, retry_after: int = 5) -> None:
    """The answer to a request that nothing was done for: 503, with a JSON-RPC error."""
    await refuse(send, 503, text, (b"retry-after", b"%d" % retry_after))


async def refuse(send: Send, status: int, text: str, *more: tuple[bytes, bytes]) -> None:
    """An answer of ours: a JSON-RPC error that is nobody's, with a status and `more` headers."""
    error = {"code": -32000, "message": text}
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}, separators=(",", ":"))
    raw = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body.encode()})


def _silence(status: int) -> Answer:
    head = {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-length", b"0")],
    }
    return Answer([head, {"type": "http.response.body", "body": b""}])
