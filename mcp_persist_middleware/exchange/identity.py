"""Where a request goes and whom it comes from, as far as that can be known."""

import contextlib
import hashlib
import json
import logging
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Scope

from mcp_persist_middleware.exchange.context import Context
from mcp_persist_middleware.protocol import callers

logger = logging.getLogger(__name__)

ANONYMOUS = ""


def credential(context: Context, scope: Scope) -> str:
    """A keyed hash of everything in a request that names its caller; empty without any."""
    parts = callers.identity(scope["headers"], context.identity_headers)
    if query := scope.get("query_string"):
        parts.append(b"?" + query)
    return _keyed(context, "credential", b"\0".join(parts)) if parts else ANONYMOUS


def principal(context: Context, scope: Scope) -> str:
    """The owner of what this request makes, as a keyed hash; empty when nobody is named.

    `scope` is the one that the application has had: its authentication leaves the user there.
    Order: the `principal=` setting, the authenticated user, the request's credentials.
    """
    if context.settings.principal is not None:
        named = context.settings.principal(HTTPConnection(scope))
        return _keyed(context, "named", str(named).encode()) if named is not None else ANONYMOUS
    user = scope.get("user")
    if user is not None and getattr(user, "is_authenticated", False):
        claim, is_person = _claim(user)
        if is_person:
            return _keyed(context, "user", claim)
        # A client id alone is shared by all the users of that client.
        return _keyed(context, "client", claim + credential(context, scope).encode())
    found = credential(context, scope)
    if found and "principal" not in context.warned:
        context.warned.add("principal")
        logger.warning(
            "Requests carry credentials that no authentication layer resolved to a user: streams "
            "belong to the exact credential, and a client that rotates it cannot resume. "
            "Pass principal= to name the caller."
        )
    return found


def _claim(user: Any) -> tuple[bytes, bool]:
    """What identifies an authenticated user, and whether it names one person."""
    token = getattr(user, "access_token", None)
    if token is None:
        identity = _attribute(user, "identity") or _attribute(user, "display_name")
        return json.dumps(["identity", identity]).encode(), bool(identity)
    claims = getattr(token, "claims", None) or {}
    subject = getattr(token, "subject", None) or claims.get("sub")
    parts = [claims.get("iss"), subject, getattr(token, "client_id", None)]
    return json.dumps(parts, default=str).encode(), subject is not None


def _attribute(user: Any, name: str) -> str:
    # Starlette's BaseUser raises for what a user class leaves out.
    with contextlib.suppress(NotImplementedError):
        return str(getattr(user, name, None) or "")
    return ""


def _keyed(context: Context, purpose: str, value: bytes) -> str:
    digest = hashlib.blake2b(value, key=context.log.secret, person=purpose.encode(), digest_size=20)
    return digest.hexdigest()
