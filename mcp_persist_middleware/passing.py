"""Nothing of ours stands between a client and an application that works: what a request gets when
this layer cannot serve it."""

import logging

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import admission, telemetry
from mcp_persist_middleware.asgi import body as bodies
from mcp_persist_middleware.asgi import path_of, responses
from mcp_persist_middleware.asgi.attempt import Attempt
from mcp_persist_middleware.errors import ClosedError, ConfigurationError, PersistError, StoreError
from mcp_persist_middleware.model import Place
from mcp_persist_middleware.protocol import classify, headers
from mcp_persist_middleware.protocol.classify import RequestKind
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.streams.lease_guard import refuse
from mcp_persist_middleware.supervision import frames, said
from mcp_persist_middleware.worker import Parts

logger = logging.getLogger(__name__)

_MOST_SAID = 100


class Passing:
    """Lets requests go on without this layer. Each reason is said once, every request counted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._warned: set[str] = set()

    async def go_on(
        self,
        error: Exception,
        settings: Settings,
        parts: Parts | None,
        head: classify.Request,
        scope: Scope,
        attempt: Attempt,
    ) -> None:
        """Serve a request that met an error of ours before anybody had it.

        Args:
            parts: what is open, or was before the lease was lost.
        """
        attempt.rewind()
        if head.kind is RequestKind.RESUME:
            # Its call may be in the log; an HTTP error would make most clients give up.
            self._say(error)
            await responses.come_back(attempt.send, settings.retry_ms)
        elif _is_refused(error, settings) and await _is_mcp(settings, parts, head, scope, attempt):
            self._say(error)
            await admission.unavailable(attempt.send)
        elif head.session and parts is not None and not _is_plain(settings, parts, head, scope):
            self._say(error)
            await refuse(attempt.send)
        else:
            self.count(error)
            await self._app(scope, attempt.receive, attempt.send)

    def count(self, error: Exception) -> None:
        """A request goes on bare because of an error."""
        self._say(error)
        telemetry.bare.add(1, {"reason": _reason(error)})

    def _say(self, error: Exception) -> None:
        text = said(error)
        if text not in self._warned and len(self._warned) < _MOST_SAID:
            self._warned.add(text)
            where = "" if isinstance(error, PersistError) else f"\n{frames(error)}"
            logger.error(
                "MPM-STORE-10: %s Requests are served without what needs the store.%s", text, where
            )


def _is_refused(error: Exception, settings: Settings) -> bool:
    """Whether a request of ours is answered with an error: where the user says so, and where what
    the user says is wrong."""
    return isinstance(error, ConfigurationError) or settings.on_store_failure == "refuse"


async def _is_mcp(
    settings: Settings,
    parts: Parts | None,
    head: classify.Request,
    scope: Scope,
    attempt: Attempt,
) -> bool:
    """Whether a request is MCP; of a POST without a header that says so its body tells."""
    version = headers.get(scope["headers"], headers.PROTOCOL_VERSION)
    if head.kind is not RequestKind.BODY or head.session or version is not None:
        return True
    body = await bodies.read(attempt.receive, settings.max_body_bytes)
    attempt.rewind()
    known = parts is not None and parts.exchanges.memory.speaks_mcp(path_of(scope))
    found = classify.by_body(head, scope["headers"], body.content, known_path=known)
    is_greeting = b'"initialize"' in body.content
    return body.complete and (found.kind is RequestKind.EXCHANGE or is_greeting)


def _is_plain(settings: Settings, parts: Parts, head: classify.Request, scope: Scope) -> bool:
    """Whether the application knows a session by the id that its client has: only then a request
    reaches the right one by itself."""
    if not parts.exchanges.holds_lease:
        return False
    place = Place(admission.namespace(settings, scope), path_of(scope))
    held = parts.sessions.held(parts.sessions.key(place, head.session))
    return held is not None and held.inner == head.session


def _reason(error: Exception) -> str:
    match error:
        case ConfigurationError():
            return "settings"
        case ClosedError():
            return "closed"
        case StoreError():
            return "store"
        case _:
            return "error"
