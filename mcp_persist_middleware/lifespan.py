"""The lifespan protocol: the store opens before the application starts and closes after it."""

import asyncio
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware.errors import PersistError, StoreError
from mcp_persist_middleware.persistence import Persistence
from mcp_persist_middleware.supervision import frames

logger = logging.getLogger(__name__)


class Lifespan:
    """One run of the lifespan protocol around an application.

    A store that cannot be opened fails the start-up with a sentence that says why. An
    application without a lifespan of its own (it raises) gets one here, since the store needs it.
    """

    def __init__(self, app: ASGIApp, persistence: Persistence) -> None:
        self._app = app
        self._persistence = persistence
        self._answered = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        try:
            await self._persistence.start()
        except PersistError as error:
            logger.error("MPM-STORE-08: %s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            # As Starlette's own lifespan does: who drives it by hand waits for one or the other.
            raise
        except Exception as error:  # noqa: BLE001
            # A store of somebody else's: a server would take it for an application without a
            # lifespan, and go on.
            said = f"The store cannot be opened: {type(error).__name__}"
            logger.error("MPM-STORE-09: %s\n%s", said, frames(error))
            await send({"type": "lifespan.startup.failed", "message": said})
            raise StoreError(url="of log=", reason=said) from None
        try:
            await self._run(scope, message, receive, send)
        finally:
            await self._persistence.aclose()

    async def _run(self, scope: Scope, startup: Message, receive: Receive, send: Send) -> None:
        first: Message | None = startup

        async def receive_inner() -> Message:
            nonlocal first
            if first is not None:
                message, first = first, None
                return message
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                # The application goes on until its calls have had their time.
                await self._persistence.drain()
            return message

        async def send_inner(message: Message) -> None:
            self._answered.set()
            await self._close_before(message)
            await send(message)

        try:
            await self._app(scope, receive_inner, send_inner)
        except Exception as error:
            if self._answered.is_set():
                raise
            logger.info("The application has no lifespan (%s)", type(error).__name__)
        if not self._answered.is_set():
            await self._alone(receive, send)

    async def _close_before(self, message: Message) -> None:
        """A server may end the process once it has heard that the shutdown is complete."""
        if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await self._persistence.aclose()

    async def _alone(self, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._persistence.aclose()
        await send({"type": "lifespan.shutdown.complete"})
