"""A session is brought back: what its client once said is said again to the application, in the
name of whoever asks for it now."""

import asyncio
import json
from collections.abc import Iterator
from typing import Protocol

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import asgi, rarely, telemetry
from mcp_persist_middleware.model import SessionRecord
from mcp_persist_middleware.protocol import headers, jsonrpc, sse
from mcp_persist_middleware.sessions.forgotten import ComparableAnswer
from mcp_persist_middleware.sessions.initialize import InitializeResult
from mcp_persist_middleware.sessions.local import LocalSession
from mcp_persist_middleware.sessions.registry import Registry

logger = rarely.logger(__name__)


class AsksCallers(Protocol):
    """Tells callers apart."""

    def principal(self, asked: Scope) -> str:
        """Names the caller of a request that the application has had."""

    def credential(self, scope: Scope) -> str:
        """What in a request names its caller, whether the application has had it or not."""

    async def owns(self, app: ASGIApp, scope: Scope, asked: Scope, principal: str) -> bool:
        """Whether that caller is the one that is named. `scope` is a request in its name that the
        application may be asked."""


async def revive(
    registry: Registry,
    app: ASGIApp,
    scope: Scope,
    record: SessionRecord,
    callers: AsksCallers,
    unknown: ComparableAnswer | None = None,
) -> LocalSession | asgi.Answer | None:
    """Make the application's session anew; with the credentials of `scope`. With `unknown`, what
    it says of a session that it does not know, only if it says something else of the new one.

    Returns the session; or the application's refusal, for the client; or None when there is no
    such session for this caller any more (another principal, another promise, or deleted
    meanwhile).

    Raises:
        StoreError: the store does not answer.
    """
    question = asgi.question(scope, "POST", without=_SESSION_HEADERS)
    greeted = await asgi.ask(app, question, record.initialize, until=_is_answered)
    if greeted.status in asgi.REFUSALS or greeted.status >= 500:
        count_refused(record)
        return greeted
    inner = headers.get(greeted.headers, headers.SESSION_ID)
    if not 200 <= greeted.status < 300 or inner is None:
        _say_refused()
        return None
    speak = _Speaker(app, scope, inner, record.version)
    held: LocalSession | asgi.Answer | None = None
    try:
        greeting = InitializeResult.parse(greeted.headers, greeted.body)
        if _is_as_promised(greeting, record):
            if await callers.owns(app, speak.question, question, record.principal):
                held = await _settled(registry, speak, record, inner, unknown)
                return held
            count_refused(record)
        return None
    finally:
        # Also where the store fails, or nobody waits any more: whoever asks next begins another.
        if not isinstance(held, LocalSession):
            await speak.goodbye()


def _say_refused() -> None:
    logger.warning(
        "MPM-SESSION-09: A session cannot be brought back: its initialize is refused now"
    )


def _is_as_promised(greeting: InitializeResult | None, record: SessionRecord) -> bool:
    if greeting is None:
        _say_refused()
        return False
    if record.fingerprint not in ("", greeting.fingerprint):
        logger.warning(
            "MPM-SESSION-10: A session is not brought back: the application's capabilities changed"
        )
        count_refused(record)
        return False
    return True


async def _settled(
    registry: Registry,
    speak: "_Speaker",
    record: SessionRecord,
    inner: str,
    unknown: ComparableAnswer | None,
) -> LocalSession | asgi.Answer | None:
    """The new session, with all that its client had said, and at home here."""
    refusal = await speak.repeat(record)
    if refusal is not None:
        return refusal if refusal.status >= 500 else None
    if unknown is not None:
        answer = await speak(asgi.cancellation())
        if ComparableAnswer.of(answer, inner) == unknown:
            # It says so of any session: the old one lives, as far as anybody knows.
            return None
    return await registry.take(record, inner)


def count_refused(record: SessionRecord) -> None:
    """Somebody did not get a session that is there."""
    telemetry.sessions.add(1, {"namespace": record.key.namespace, "event": "refused"})


# Whoever asks for the session waits for all its subscriptions.
_AT_ONCE = 16
_SESSION_HEADERS = (headers.SESSION_ID, headers.PROTOCOL_VERSION)


class _Speaker:
    """Says what a client of the new session would."""

    def __init__(self, app: ASGIApp, scope: Scope, inner: str, version: str) -> None:
        self._app = app
        self._scope = scope
        self._head = [
            (headers.SESSION_ID, inner.encode("latin-1")),
            (headers.PROTOCOL_VERSION, version.encode("latin-1")),
        ]

    @property
    def question(self) -> Scope:
        """A request in the new session."""
        return self._question("POST")

    def _question(self, method: str) -> Scope:
        question = asgi.question(self._scope, method, without=_SESSION_HEADERS)
        question["headers"] += self._head
        return question

    async def __call__(self, message: bytes) -> asgi.Answer:
        return await asgi.ask(self._app, self._question("POST"), message, until=_is_answered)

    async def repeat(self, record: SessionRecord) -> asgi.Answer | None:
        """What the client said, so much at a time; the first answer that refuses it."""
        for messages in _repeated(record):
            # When one raises, none of the others is left behind.
            for answer in await asyncio.gather(*map(self, messages), return_exceptions=True):
                if isinstance(answer, BaseException):
                    raise answer
                if not 200 <= answer.status < 300:
                    return answer
        return None

    async def goodbye(self) -> None:
        """Nobody will use this session."""
        await asgi.ask(self._app, self._question("DELETE"), b"")


def _repeated(record: SessionRecord) -> Iterator[list[bytes]]:
    """What follows `initialize`, in its order, so much of it at a time; no request passes before
    `initialized` did."""
    yield [b'{"jsonrpc":"2.0","method":"notifications/initialized"}']
    if record.level:
        yield [_request(0, "logging/setLevel", {"level": record.level})]
    subscribe = [
        _request(number, "resources/subscribe", {"uri": uri})
        for number, uri in enumerate(record.subscriptions, 1)
    ]
    yield from (subscribe[i : i + _AT_ONCE] for i in range(0, len(subscribe), _AT_ONCE))


def _request(number: int, method: str, params: dict[str, str]) -> bytes:
    request_id = f"revive-{number}"
    return json.dumps(
        {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    ).encode()


def _is_answered(body: bytes) -> bool:
    """Whether an event stream has brought its response."""
    frames = sse.FrameParser(len(body) + 1).feed(body)
    return any(jsonrpc.scan(frame.data)[1] for frame in frames)
