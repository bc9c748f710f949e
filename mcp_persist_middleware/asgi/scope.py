"""Where a request goes and whose it is, read from its scope; and what it tells further in."""

from collections.abc import MutableMapping
from typing import Any

from starlette.types import Scope

from mcp_persist_middleware.model import Place, surely

EXTENSION = "mcp_persist"
"""The key in `scope["extensions"]` under which the application finds what it is told."""


def path_of(scope: Scope) -> str:
    """The full path of a request, mounts included (Starlette keeps the mount in both). A slash at
    its end makes no other place of it: applications redirect from the one to the other, and a
    client goes on with the one that it was given."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    full = path if path.startswith(root) else root + path
    return full.rstrip("/") or "/"


def place_of(scope: Scope) -> Place:
    """The namespace and the full path of a request that the middleware has let in."""
    return Place(scope["extensions"][EXTENSION]["namespace"], path_of(scope))


def account_of(scope: Scope, principal: str) -> str:
    """Whose a request is when what one caller has is counted: the principal's, or, where there is
    none, the address's that it comes from."""
    client = scope.get("client")
    return surely(principal) or (f"@{client[0]}" if client else "@")


def with_extension(scope: Scope, **told: str) -> Scope:
    """The scope for what is inside, so that a second middleware there steps aside, and for the
    next attempt, so that it finds nothing of this one's."""
    known = scope.get("extensions", {})
    if EXTENSION in known and not told:
        told = {"namespace": known[EXTENSION]["namespace"]}
    extensions: MutableMapping[str, Any] = {**known, EXTENSION: dict(told)}
    return {**scope, "extensions": extensions}
