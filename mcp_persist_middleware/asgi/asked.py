"""One request of a client, as far as it has been read."""

import dataclasses
from dataclasses import dataclass
from typing import Self

from starlette.types import Scope

from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.scope import with_extension
from mcp_persist_middleware.protocol import callers, classify


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for. It may be served more than once, each time from the beginning."""

    request: classify.Request
    scope: Scope
    body: Body
    resume: "Asked | None" = None
    """The request with a cursor for which this one is run again."""

    @property
    def is_secret(self) -> bool:
        """Whether it carries what may lie in a store only if it is sealed."""
        return bool(callers.secrets(self.scope["headers"]) or self.scope.get("query_string"))

    def again(self) -> Self:
        """The same, for an attempt that finds nothing of the one before."""
        scope, body = with_extension(self.scope), self.body.again()
        return dataclasses.replace(self, scope=scope, body=body)
