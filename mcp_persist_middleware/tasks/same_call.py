"""What makes two calls one: whose they are, which tool they call, and with what."""

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from mcp_persist_middleware import rarely
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.model import JobFace, Owner, surely
from mcp_persist_middleware.protocol.jsonrpc import Call
from mcp_persist_middleware.streams.ownership import Caller

logger = rarely.logger(__name__)

META = "io.github.mcp-persist/"
"""Begins the names of what clients may say to us in the `_meta` of a call."""
# What in a call does not change what is asked for: what is only about this request, and a task that
# may be made of it.
_OF_ONE_REQUEST = frozenset({"_meta", "task"})

ToolFilter = Collection[str] | Callable[[str, dict[str, Any]], bool] | None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool, as it has come."""

    asked: Asked
    call: Call
    params: dict[str, Any]

    @classmethod
    def of(cls, asked: Asked) -> "ToolCall | None":
        """None for every other request, and for one that cannot be looked at."""
        call = asked.request.call
        if call is None or call.method != "tools/call" or not call.name:
            return None
        if len(call.request_ids) != 1 or not asked.body.complete:
            return None
        params = json.loads(asked.body.content)["params"]
        return cls(asked, call, params)

    @property
    def said(self) -> dict[str, Any]:
        """What its client says of it to whom it may concern."""
        meta = self.params.get("_meta")
        return meta if isinstance(meta, dict) else {}

    def arguments(self, secret: bytes) -> str:
        """A hash of all that it asks for: the order of what is in an object makes no other call."""
        asked = {key: self.params[key] for key in self.params.keys() - _OF_ONE_REQUEST}
        return _hashed(secret, "arguments", json.dumps(asked, sort_keys=True))

    def is_wanted(self, wanted: ToolFilter, setting: str) -> bool:
        """What a setting says of it: names of tools, a callable, or nothing for all."""
        if wanted is None:
            return True
        if not callable(wanted):
            return self.call.name in wanted
        try:
            return bool(wanted(self.call.name, self.params.get("arguments") or {}))
        except Exception:
            logger.exception("MPM-APP-07: The %s setting raised; the call stays a call", setting)
            return False


def owned(caller: Caller) -> Caller | None:
    """The caller as the owner of what may be asked for again; None where nobody is known."""
    owner = lasting(caller.owner)
    return replace(caller, owner=owner) if owner.is_known else None


def lasting(owner: Owner) -> Owner:
    """The principal, in whichever session, or, of nobody who is named, the session."""
    return replace(owner, session="") if surely(owner.principal) else owner


def key_of(secret: bytes, face: JobFace, owner: Owner, said: str) -> str:
    """What a job is found by when its owner asks for the same again."""
    whose = ["session", owner.session] if owner.session else ["principal", surely(owner.principal)]
    return _hashed(secret, "job", json.dumps([face, *whose, said]))


def _hashed(secret: bytes, purpose: str, text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, key=secret, person=purpose.encode(), digest_size=20).hexdigest()
