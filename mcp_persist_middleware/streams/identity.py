"""Where a request goes and whom it comes from, as far as that can be known."""

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Scope

from mcp_persist_middleware.model import EARLY, UNSURE, surely
from mcp_persist_middleware.protocol import callers
from mcp_persist_middleware.streams.context import Context

logger = logging.getLogger(__name__)

ANONYMOUS = ""


def credential(context: Context, scope: Scope) -> str:
    """A keyed hash of everything in a request that may name its caller, so that it
    is the same for the same caller alone; empty without any.

    It begins with what names a caller anywhere; each kind that may follow is one that the
    application has to be asked about (see `Doubt`).
    """
    more, query = _lowered(context.settings.identity_headers), scope.get("query_string", b"")
    raw = callers.telling(scope["headers"], more)
    if not (raw or query):
        return ANONYMOUS
    parts = callers.identity(raw, more)
    found = _keyed(context, "credential", b"\0".join(parts)) if parts else ANONYMOUS
    doubtful = callers.doubtful(raw, query, more)
    if not doubtful:
        return found
    hashes = {kind: _keyed(context, kind, b"\0".join(doubtful[kind])) for kind in doubtful}
    return _joined(found, hashes)


def principal(context: Context, scope: Scope, known: str | None = None) -> str:
    """The owner of what this request makes, as a keyed hash; empty when nobody is named.

    `scope` is the one that the application has had: its authentication leaves the user there.
    Order: the `principal=` setting, the authenticated user, the request's credentials.

    Args:
        known: the `credential` of the request, if somebody has asked for that already.
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
        sure, hashes = _split(credential(context, scope) if known is None else known)
        return _joined(_keyed(context, "client", claim + sure.encode()), hashes)
    found = credential(context, scope) if known is None else known
    if surely(found):
        warn(context)
    return found


def stored(secret: bytes, named: str | Sequence[str | None]) -> frozenset[str]:
    """The owners that a person may be in the store with this secret: what the `principal=` setting
    returns, the identity of an authenticated user, or the owner itself as it stands there. Of the
    bearer of a token, its issuer, subject and client id, None for what it does not say."""
    if not isinstance(named, str):
        return frozenset({_hashed(secret, "user", json.dumps(list(named)).encode())})
    claim = json.dumps(["identity", named]).encode()
    settled = _hashed(secret, "named", named.encode()), _hashed(secret, "user", claim)
    return frozenset({surely(named), *settled})


def early(context: Context, scope: Scope, known: str) -> str:
    """The same for a stream that begins before the application has answered: it may not have named
    its user yet, and then whoever has the same credentials is the owner until it has."""
    user = scope.get("user")
    if context.settings.principal is not None:
        # It may look for the user; what it raises then is no fault of this request's.
        with contextlib.suppress(Exception):
            if found := principal(context, scope, known):
                return found
    elif user is not None and getattr(user, "is_authenticated", False):
        return principal(context, scope, known)
    return EARLY + known


@functools.lru_cache
def _lowered(names: tuple[str, ...]) -> frozenset[bytes]:
    """Headers as they come."""
    return frozenset(name.lower().encode() for name in names)


def warn(context: Context) -> None:
    """Say once that the principal is a credential."""
    if "principal" not in context.memory.warned:
        context.memory.warned.add("principal")
        logger.warning(
            "MPM-CONFIG-10: Requests carry credentials that no authentication layer resolved to a "
            "user: streams "
            "belong to the exact credential, and a client that rotates it cannot resume. "
            "Pass principal= to name the caller."
        )


@dataclass(frozen=True, slots=True)
class Doubt:
    """Two principals that are one unless the application asks for that in which they differ."""

    common: str
    """What is the same in both."""
    kinds: frozenset[str]
    """In what they differ."""
    is_shown: bool
    """Whether the first has all of that, so that what it is served without it says something."""

    @classmethod
    def between(cls, one: str, other: str) -> "Doubt | None":
        """The doubt whether two principals are one; None when they are surely two."""
        (sure, mine), (theirs_sure, theirs) = _split(one), _split(other)
        if sure != theirs_sure:
            return None
        kinds = frozenset(kind for kind, _ in mine.items() ^ theirs.items())
        common = {kind: value for kind, value in mine.items() if kind not in kinds}
        return cls(_joined(sure, common), kinds, kinds <= mine.keys())


def _joined(sure: str, hashes: Mapping[str, str]) -> str:
    return sure + "".join(f"{UNSURE}{kind}:{hashes[kind]}" for kind in sorted(hashes))


def _split(found: str) -> tuple[str, dict[str, str]]:
    sure, *others = found.split(UNSURE)
    return sure, dict(kind.split(":", 1) for kind in others)


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
    return _hashed(context.log.secret, purpose, value)


def _hashed(secret: bytes, purpose: str, value: bytes) -> str:
    digest = hashlib.blake2b(value, key=secret, person=purpose.encode(), digest_size=20)
    return digest.hexdigest()
