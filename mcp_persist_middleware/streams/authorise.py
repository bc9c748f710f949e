"""The application is asked before anything is replayed: its Host, Origin and token checks, its
rate limits and its outages all apply to a resume as to any other request."""

from dataclasses import dataclass

from starlette.types import ASGIApp, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.streams import expiry
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.ownership import Caller


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the application says about the caller."""

    answer: asgi.Answer
    """To be passed on when it refuses."""
    caller: Caller

    @property
    def refused(self) -> bool:
        """Whether the answer itself is the end of the matter: a refusal, or another place to ask.
        404, 405 and 409 are not: the application may have restarted, or may not know what we
        keep."""
        status = self.answer.status
        return status in asgi.REFUSALS or 300 <= status < 400 or status >= 500

    async def pass_on(self, send: Send) -> None:
        """Give the application's own answer to the client."""
        await self.answer.pass_on(send)


async def ask(context: Context, app: ASGIApp, scope: Scope, *, revives: bool = False) -> Verdict:
    """Ask with the cancellation of a request that does not exist, which changes nothing, and with
    the caller's own headers. A session is brought back only where that is the purpose.

    It is a POST for a GET stream as well: a GET of ours could take or end the application's one
    stream, and proves nothing, for stateless servers answer 405 before any authentication.
    """
    asked, answer = await asgi.probe_caller(app, scope, revives=revives)
    expiry.note(context.settings, scope, asked)
    return Verdict(answer, Caller.of(context, app, scope, asked))
