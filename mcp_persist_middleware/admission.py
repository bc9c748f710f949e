"""What is settled about a request before it goes anywhere."""

import dataclasses

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Scope, Send

from mcp_persist_middleware import asgi, rarely
from mcp_persist_middleware.asgi import path_of
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.errors import InvalidSettingError, StoreError
from mcp_persist_middleware.model import Place, surely
from mcp_persist_middleware.protocol import classify, headers, jsonrpc
from mcp_persist_middleware.protocol.classify import RequestKind
from mcp_persist_middleware.sessions.registry import Registry
from mcp_persist_middleware.settings import Settings, namespace_complaint
from mcp_persist_middleware.streams import authorise
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.memory import Memory

logger = rarely.logger(__name__)


def by_head(settings: Settings, memory: Memory, scope: Scope) -> classify.Request:
    """What a request is, as far as its head says, and whether it is ours at all."""
    path = path_of(scope)
    if settings.paths is not None and not any(
        path.rstrip("/") == prefix or path.startswith(prefix.rstrip("/") + "/")
        for prefix in settings.paths
    ):
        return classify.PASS
    request = classify.by_head(
        scope["method"],
        scope["headers"],
        settings,
        known_path=memory.speaks_mcp(path),
    )
    if request.kind is not RequestKind.PASS and settings.persist is not None:
        return request if settings.persist(HTTPConnection(scope)) else classify.PASS
    return request


def by_body(context: Context, head: classify.Request, scope: Scope, body: Body) -> classify.Request:
    """What a POST is; of one that is too large to be looked at, no more than its head says."""
    known = context.memory.speaks_mcp(path_of(scope))
    if body.complete:
        request = classify.by_body(head, scope["headers"], body.content, known_path=known)
        if request.kind in (RequestKind.EXCHANGE, RequestKind.LISTEN):
            return request
    return head


async def in_latest_session(
    context: Context, registry: Registry, app: ASGIApp, asked: Asked
) -> Asked:
    """A request that names no session, in the latest one of its principal, where that is wished:
    there are clients that never say the id that they were given."""
    request, fallback = asked.request, context.settings.session_fallback
    is_post = request.kind in (RequestKind.EXCHANGE, RequestKind.BODY)
    if fallback is None or request.session or not (is_post and request.era.keeps_sessions):
        return asked
    call = request.call or jsonrpc.parse(asked.body.content)
    if call is None or call.method == "initialize":
        return asked
    verdict = await authorise.ask(context, app, asked.scope)
    principal = verdict.caller.owner.principal
    if verdict.refused or not surely(principal):
        return asked
    try:
        session = await registry.latest.of(asgi.place_of(asked.scope), principal)
    except StoreError as error:
        logger.warning("MPM-SESSION-18: The latest session cannot be looked up: %s", error)
        return asked
    if session is None:
        return asked
    raw = [*asked.scope["headers"], (headers.SESSION_ID, session.encode("latin-1"))]
    found = dataclasses.replace(request, session=session)
    return dataclasses.replace(asked, request=found, scope={**asked.scope, "headers": raw})


async def forget(context: Context, place: Place, session: str) -> None:
    """A deleted session's streams are gone before its client hears of the deletion."""
    for stream in context.writer.live.values():
        owner = stream.record.owner
        if owner.session == session and owner.place == place:
            stream.record = dataclasses.replace(stream.record, expires_at=0.0)
    try:
        await context.log.expire_session(*place, session)
    except StoreError as error:
        logger.warning(
            "MPM-SESSION-02: The streams of a deleted session stay until they expire: %s", error
        )


def refuses(context: Context) -> bool:
    """Whether nothing new is begun while the store is away."""
    return context.writer.is_down and context.settings.on_store_failure == "refuse"


def namespace(settings: Settings, scope: Scope) -> str:
    """Where the streams and sessions of a request live.

    Raises:
        InvalidSettingError: `namespace=` returned what is no name; nothing is guessed then.
    """
    if isinstance(settings.namespace, str):
        return settings.namespace
    found = settings.namespace(HTTPConnection(scope))
    if (complaint := namespace_complaint(found)) is not None:
        raise InvalidSettingError(
            name="namespace", source="what the callable returned", value=found, expected=complaint
        )
    return found


async def unavailable(send: Send) -> None:
    """The answer to a request that needs the store."""
    await asgi.unavailable(send, "The event store is unavailable")
