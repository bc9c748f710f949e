"""The application as one that may put questions: each is noted before its client has it."""

from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.sessions.local import Site
from mcp_persist_middleware.sessions.revive import AsksCallers
from mcp_persist_middleware.sessions.rounds import Rounds, state_in


@dataclass(frozen=True, slots=True)
class Asking:
    """An ASGI application around the application: see `Rounds`."""

    app: ASGIApp
    rounds: Rounds
    callers: AsksCallers
    site: Site
    """Serves whoever comes back with an answer, for another worker."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Message) -> None:
            body = message.get("body", b"") if message["type"] == "http.response.body" else b""
            if body and (state := state_in(body)) is not None:
                key = self.rounds.key(asgi.place_of(scope), self.callers.credential(scope), state)
                await self.rounds.note(key, self.callers.principal(scope), self.site)
            await send(message)

        await self.app(scope, receive, noting)
