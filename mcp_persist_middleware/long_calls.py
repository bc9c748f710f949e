"""Where the faces of long calls meet one exchange: tasks, calls that are handed back, and calls
with an idempotency key."""

from starlette.types import ASGIApp

from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.clients import LocalClient, Recipient
from mcp_persist_middleware.streams import serve
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.pump import Exchange
from mcp_persist_middleware.tasks import faces
from mcp_persist_middleware.tasks.hand_back import HandBack, HandBackOffer
from mcp_persist_middleware.tasks.idempotency import Idempotent


async def joined(context: Context, app: ASGIApp, asked: Asked, client: LocalClient) -> bool:
    """Answer a request that is for what an earlier one has begun, on whichever worker that was;
    false for every other."""
    if (idempotent := Idempotent.of(context, app, asked)) is not None:
        return await idempotent.answer(client, client.send)
    client.hand_back = HandBack.of(context, app, asked)
    return client.hand_back is not None and await client.hand_back.answer(client, client.send)


async def run(
    context: Context, app: ASGIApp, bare: ASGIApp, asked: Asked, client: Recipient
) -> None:
    """Have the application answer a request, or say that its answer is to be asked for later.

    Args:
        bare: the application without our sessions.
    """
    tasks = faces.of(context, app, bare, asked)
    idempotent = Idempotent.of(context, app, asked)
    if tasks is not None:
        if await tasks.answer(client.send):
            return
        app = tasks.application
        if tasks.begun is not None:
            await client.read(asked, *tasks.begun)
            return
    running = Exchange(context, app, asked.scope, asked.request, client.send)
    running.recorder.is_asked_here = client.is_here
    if idempotent is not None:
        if not await idempotent.claim(running, client, client.send):
            return
    else:
        running.handoff = tasks.offer if tasks is not None else None
        hand_back = HandBack.of(context, app, asked) if running.handoff is None else None
        if hand_back is not None:
            running.handoff = HandBackOffer.of(hand_back)
    opened = await serve.begin(context, running, asked.body, client, client.send)
    if opened is not None:
        await client.read(asked, running, opened)
        if not client.is_here and isinstance(running.handoff, HandBackOffer):
            context.background.spawn(running.handoff.keep(running), "mcp-persist-hand-back")
