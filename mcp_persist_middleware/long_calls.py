"""Where the faces of long calls meet one exchange: tasks, calls that are handed back, and calls
with an idempotency key."""

from functools import partial

from starlette.types import ASGIApp, Message, Send

from mcp_persist_middleware import admission
from mcp_persist_middleware.asgi import body as bodies
from mcp_persist_middleware.asgi import place_of, responses
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.client import nowhere, stay
from mcp_persist_middleware.clients import LocalClient, Recipient
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.sessions.local import LocalSession
from mcp_persist_middleware.sessions.rewrite import named
from mcp_persist_middleware.streams import serve
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.tasks import faces
from mcp_persist_middleware.tasks.core_result import TaskResult
from mcp_persist_middleware.tasks.hand_back import HandBack
from mcp_persist_middleware.tasks.hand_back_offers import HandBackOffer
from mcp_persist_middleware.tasks.idempotency import Idempotent
from mcp_persist_middleware.tasks.joinable import JoinableCall
from mcp_persist_middleware.tasks.leftovers import Leftovers
from mcp_persist_middleware.worker import Parts


async def joined(context: Context, app: ASGIApp, asked: Asked, client: LocalClient) -> bool:
    """Answer a request that is for what an earlier one has begun, on whichever worker that was;
    false for every other."""
    client.repeatable = _repeatable(context, app, asked)
    return client.repeatable is not None and await client.repeatable.answer(client, client.send)


def _repeatable(context: Context, app: ASGIApp, asked: Asked) -> JoinableCall | None:
    """A request as a call that may be for what an earlier one has begun; None for every other."""
    return Idempotent.of(context, app, asked) or HandBack.of(context, app, asked)


async def run(
    context: Context, app: ASGIApp, bare: ASGIApp, asked: Asked, client: Recipient
) -> None:
    """Have the application answer a request, or say that its answer is to be asked for later.

    Args:
        bare: the application without our sessions.
    """
    tasks = faces.of(context, app, bare, asked)
    # Whoever let it in here has looked at it; of one that was relayed that was another worker.
    known = client.repeatable if client.is_here else _repeatable(context, app, asked)
    repeatable = known and known.on(app, asked)
    if tasks is not None:
        if await tasks.answer(client.send):
            return
        app = tasks.application
        if tasks.begun is not None:
            await client.read(asked, *tasks.begun)
            return
    running = Exchange(context, app, asked.scope, asked.request, client.send)
    running.recorder.is_asked_here = client.is_here
    running.only_asks = isinstance(app, TaskResult)
    running.handoff, claim = tasks.offer if tasks is not None else None, None
    match repeatable:
        case Idempotent():
            running.handoff = None
            claim = partial(repeatable.claim, running, client, client.send)
        case HandBack() if running.handoff is None:
            running.handoff = HandBackOffer.of(repeatable)
    opened = await serve.begin(context, running, asked.body, client, client.send, claim)
    if opened is not None:
        await client.read(asked, running, opened)
        if not client.is_here and isinstance(running.handoff, HandBackOffer):
            context.background.spawn(running.handoff.keep(running), "mcp-persist-hand-back")


async def end_session(
    parts: Parts, app: ASGIApp, bare: ASGIApp, asked: Asked, client: Recipient
) -> None:
    """Delete a session. While calls run in it that their principal may ask for outside of it, the
    application hears of that later: it would cancel them. The store hears of it at once, for the
    worker may die before that.

    Args:
        bare: the application without our sessions.

    Raises:
        SessionElsewhereError: another worker is the session's home. Nothing was sent.
    """
    context, registry = parts.exchanges, parts.sessions
    left = await Leftovers.of(context, app, asked)
    held = registry.held(registry.key(place_of(asked.scope), asked.request.session))
    if left.running and held is not None:
        try:
            await registry.end(held)
        except StoreError:
            await responses.not_deleted_yet(client.send)
            return
        later = _end_later(context, bare, asked, left, held)
        context.background.spawn(later, "mcp-persist-session-end")
        await responses.done(client.send)
        return
    await left.keep()
    forgetting = partial(_forget, context, asked, client.send)
    await app(asked.scope, bodies.replay(asked.body, client.rest), forgetting)


async def _end_later(
    context: Context, bare: ASGIApp, asked: Asked, left: Leftovers, held: LocalSession
) -> None:
    await left.keep()
    await admission.forget(context, place_of(asked.scope), asked.request.session)
    named(asked.scope, held)
    await bare(asked.scope, bodies.replay(asked.body, stay), nowhere)


async def _forget(context: Context, asked: Asked, send: Send, message: Message) -> None:
    if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
        await admission.forget(context, place_of(asked.scope), asked.request.session)
    await send(message)
