"""What the applications behind a proxy have in common, whatever they answer with."""

from abc import ABC, abstractmethod

from starlette.types import Receive, Scope, Send


class Application(ABC):
    """An ASGI application for HTTP that ends what it has begun with its lifespan."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or follow the lifespan."""
        match scope["type"]:
            case "lifespan":
                await self._lifespan(receive, send)
            case "http":
                await self.http(scope, receive, send)
            case _:
                # No MCP client opens one; a server answers 403.
                await send({"type": "websocket.close", "code": 1003})

    @abstractmethod
    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""

    @abstractmethod
    async def aclose(self) -> None:
        """End connections and processes. May be called twice."""

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.aclose()
            done = message["type"].replace("lifespan.", "")
            await send({"type": f"lifespan.{done}.complete"})
            if done == "shutdown":
                return
