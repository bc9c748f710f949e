"""Whether a caller is the owner of something, where they differ in what names a caller only if the
application asks for it: then the application is asked without that, once for each place."""

import dataclasses
import logging
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import asgi
from mcp_persist_middleware.errors import PersistError
from mcp_persist_middleware.model import EARLY, Owner
from mcp_persist_middleware.protocol import callers, headers
from mcp_persist_middleware.streams import identity
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.identity import Doubt

logger = logging.getLogger(__name__)

_UNAVAILABLE = 429


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever makes a request."""

    context: Context
    app: ASGIApp
    scope: Scope
    """The request, as the application may be asked it again."""
    owner: Owner
    """Whom what it makes belongs to."""
    _known: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def of(cls, context: Context, app: ASGIApp, scope: Scope, asked: Scope) -> "Caller":
        """The caller of a request. `asked` is the scope of one in its name that the application
        has had."""
        session = headers.get(scope["headers"], headers.SESSION_ID) or ""
        found = identity.principal(context, asked)
        return cls(context, app, scope, Owner(*asgi.place_of(scope), session, found))

    @property
    def account(self) -> str:
        """Whose it is when what one caller has is counted."""
        return asgi.account_of(self.scope, self.owner.principal)

    async def owns(self, owner: Owner) -> bool:
        """Whether a stream of this owner is the caller's."""
        if dataclasses.replace(owner, principal=self.owner.principal) != self.owner:
            return False
        found, other = self.owner.principal, owner.principal
        if other not in self._known:
            # However often a young stream is looked for, the application is asked once.
            known = await is_owner(self.context, self.app, self.scope, found, other)
            self._known[other] = known
        return self._known[other]


@dataclass(frozen=True, slots=True)
class Callers:
    """Tells the callers of sessions apart."""

    context: Context

    def principal(self, asked: Scope) -> str:
        """Names the caller of a request that the application has had."""
        return identity.principal(self.context, asked)

    def credential(self, scope: Scope) -> str:
        """What in a request names its caller, whether the application has had it or not."""
        return identity.credential(self.context, scope)

    async def owns(self, app: ASGIApp, scope: Scope, asked: Scope, principal: str) -> bool:
        """Whether that caller is the one that is named. `scope` is a request in its name that the
        application may be asked."""
        return await is_owner(self.context, app, scope, self.principal(asked), principal)


async def is_owner(context: Context, app: ASGIApp, scope: Scope, found: str, owner: str) -> bool:
    """Whether the caller of `scope`, whose principal is `found`, is the principal `owner`.

    They may differ in a cookie that changes with each answer, and in one by which the application
    knows its users. What it serves without, to a caller who is otherwise the same, names nobody;
    where it does not say, everything does. What began early belongs to its credentials.
    """
    if owner.startswith(EARLY):
        found, owner = identity.credential(context, scope), owner.removeprefix(EARLY)
    if found == owner:
        return True
    doubt = Doubt.between(found, owner)
    if doubt is None:
        return False
    known = (asgi.place_of(scope), doubt.common, doubt.kinds)
    asked_for = context.memory.asks_for.get(known)
    if asked_for is None:
        asked_for, is_sure = await _asks_for(app, scope, doubt)
        if is_sure:
            context.memory.asks_for[known] = asked_for
    if asked_for:
        identity.warn(context)
    return not asked_for


async def _asks_for(app: ASGIApp, scope: Scope, doubt: Doubt) -> tuple[bool, bool]:
    """Whether the application refuses a request without what is in doubt; and whether that holds
    for the next caller as well."""
    less, _ = await _said(app, _less(scope, doubt))
    if 200 <= less < 300:
        return False, doubt.is_shown
    if less == _UNAVAILABLE or less >= 500:
        return True, False
    whole, in_session = await _said(app, scope)
    if whole != less:
        return True, whole < 500 and whole != _UNAVAILABLE
    # It answers both alike. That is no refusal where it says so of a session that it cannot know;
    # of one that it has it may say so to a stranger.
    is_refusal = less in (401, 403, 407, 421) or less < 400
    return is_refusal or in_session, False


async def _said(app: ASGIApp, scope: Scope) -> tuple[int, bool]:
    """The status of an answer, and whether the application was asked in a session that it has."""
    try:
        asked, answer = await asgi.probe_caller(app, scope)
    except PersistError:
        raise
    except Exception:
        logger.exception(
            "MPM-APP-03: The application raised when it was asked what it knows its users by"
        )
        return 500, False
    return answer.status, "session" in asked["extensions"][asgi.EXTENSION]


def _less(scope: Scope, doubt: Doubt) -> Scope:
    """The same request without what is in doubt."""
    less = {**scope, "headers": callers.without(scope["headers"], doubt.kinds)}
    if callers.QUERY in doubt.kinds:
        less["query_string"] = b""
    return less
