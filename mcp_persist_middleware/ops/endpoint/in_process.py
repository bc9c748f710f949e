"""An application that runs here, without a server and without what keeps its streams."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware.asgi import with_extension
from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.supervision import frames, scoped

_START, _STOP = 30.0, 10.0
_HOST = (b"host", b"localhost:8000")
"""What SDKs take unless they are told another name."""
_SCOPE: Scope = {
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "scheme": "http",
    "root_path": "",
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 8000),
}


@contextlib.asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[ASGIApp]:
    """The application between its start and its end, for questions. A `PersistMiddleware` in it
    steps aside: no store is opened, nothing is kept.

    Raises:
        ConfigurationError: it does not start.
    """
    lifespan = _Lifespan(app)
    with scoped(lifespan.run(), "mcp-persist-doctor-lifespan"):
        await lifespan.start()
        try:
            yield _Served(app, lifespan.state)
        finally:
            await lifespan.stop()


class _Lifespan:
    """One run of the lifespan protocol, as a server has it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.state: dict[str, Any] = {}
        self._asked: asyncio.Queue[Message] = asyncio.Queue(2)
        self._trouble = ""
        self._started, self._stopped = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        scope = {"type": "lifespan", "asgi": _SCOPE["asgi"], "state": self.state}
        try:
            await self._app(with_extension(scope, namespace=""), self._asked.get, self._said)
        except Exception as error:
            # Whoever has no lifespan raises before it has answered, and is served all the same.
            if self._started.is_set():
                self._trouble = f"{type(error).__name__}\n{frames(error)}"
        finally:
            self._started.set()
            self._stopped.set()

    async def _said(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.failed":
                self._trouble = message.get("message") or "it says no more"
                self._started.set()
            case "lifespan.startup.complete":
                self._started.set()
            case _:
                self._stopped.set()

    async def start(self) -> None:
        self._asked.put_nowait({"type": "lifespan.startup"})
        try:
            async with asyncio.timeout(_START):
                await self._started.wait()
        except TimeoutError:
            self._trouble = f"its lifespan says nothing for {_START:g} s"
        if self._trouble:
            raise ConfigurationError(reason=f"the application does not start: {self._trouble}")

    async def stop(self) -> None:
        self._asked.put_nowait({"type": "lifespan.shutdown"})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP):
                await self._stopped.wait()


class _Served:
    """What a server adds: a scope that is whole, and an answer where the application raises."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def sent(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        raw = scope["headers"]
        if not any(name == b"host" for name, _ in raw):
            raw = [_HOST, *raw]
        whole = {**_SCOPE, **scope, "headers": raw, "state": dict(self._state)}
        try:
            await self._app(with_extension(whole, namespace=""), receive, sent)
        except Exception:
            if not has_begun:
                await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b""})
