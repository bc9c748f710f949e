"""What a worker learns from the application's answers. Losing it costs an early start, no more."""

import re
import time
from collections.abc import Hashable
from typing import TypeVar

from mcp_persist_middleware.model import Place
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.protocol.jsonrpc import Call
from mcp_persist_middleware.recent import Recent

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_PLACES = 4096
_CALLERS = 4096
_TRUST_SECONDS = 300.0
# Clients refuse an event of more than 1 MiB.
_LARGE = 512 * 1024
MAX_LEARNED = 2 * _LARGE
"""More than this of an answer (bytes) teaches nothing."""
_GREETINGS = frozenset({"initialize", "server/discover"})
_GREETING = re.compile(rb'"(?:protocolVersion|supportedVersions)"\s*:')


class Memory:
    """Bounded, of this worker, of this process start."""

    def __init__(self) -> None:
        self.warned: set[str] = set()
        """The warnings that are given once."""
        self._speaks_mcp: Recent[str, None] = Recent(_PLACES)
        self._answers_json: Recent[Place, bool] = Recent(_PLACES)
        self._accepted: Recent[tuple[Place, str], float] = Recent(_CALLERS)
        self._is_large: Recent[tuple[Place, str, str], bool] = Recent(_PLACES)
        self.asks_for: Recent[tuple[Place, str, frozenset[str]], bool] = Recent(_CALLERS)
        """Whether, from whoever is named by the rest, the application asks for these kinds of
        credentials as well."""
        self.own_tasks: Recent[Place, bool] = Recent(_PLACES)
        """Whether the application says that it has tasks itself."""
        self.own_core_tasks: Recent[Place, bool] = Recent(_PLACES)
        """The same to clients of 2025-11-25."""
        self.unanswered: Recent[tuple[Place, str], float] = Recent(_CALLERS)
        """Who is not told that, and until when (monotonic) he is not asked for again."""
        self.principals: Recent[tuple[Place, str], str] = Recent(_CALLERS)
        """Whom the application took whoever has these credentials for."""
        self.forget_job_keys()
        self.structured: Recent[Place, tuple[frozenset[str], float]] = Recent(_PLACES)
        """The tools that promise more than a text, and until when (monotonic) that is believed."""

    def forget_job_keys(self) -> None:
        """A caller has one more. Whoever looks just now keeps what he saw before to himself."""
        self.job_keys: Recent[str, tuple[frozenset[str], float]] = Recent(_CALLERS)
        """The keys of the jobs of a caller, and when (monotonic) they were looked for."""

    def learn_head(
        self, place: Place, credential: str, era: Era, status: int, raw: headers.RawHeaders
    ) -> None:
        """An exchange was answered with this head."""
        if not 200 <= status < 300:
            return
        self._accepted[(place, credential)] = time.monotonic()
        if headers.get(raw, headers.SESSION_ID) is not None:
            self._speaks_mcp[place.path] = None
        if not era.json_per_answer:
            is_json = headers.media_type(raw) == b"application/json"
            self._answers_json[place] = is_json

    def learn_body(self, place: Place, call: Call | None, body: bytes) -> None:
        """Part of an answer. A path is known for MCP by what it says: headers of the request
        prove nothing, any caller can send them to any endpoint.
        """
        if call is not None and call.method in _GREETINGS and _GREETING.search(body):
            self._speaks_mcp[place.path] = None

    def learn_size(self, place: Place, call: Call | None, size: int, *, ended: bool) -> None:
        """An answer had at least this many bytes, or as many when a result has ended with them."""
        if call is not None and (ended or size > _LARGE):
            self._is_large[(place, call.method, call.name)] = size > _LARGE

    def speaks_mcp(self, path: str) -> bool:
        """Whether this path has greeted a client as an MCP server does."""
        return path in self._speaks_mcp

    def answers_json(self, place: Place) -> bool:
        """Whether the last answer of an era in which that means the next one, too, was JSON."""
        return bool(self._answers_json.get(place))

    def accepts(self, place: Place, credential: str) -> bool:
        """Whether these credentials (none, too) got a 2xx here within the last minutes."""
        at = self._accepted.get((place, credential))
        return at is not None and (not credential or time.monotonic() - at < _TRUST_SECONDS)

    def is_small(self, place: Place, call: Call) -> bool | None:
        """Whether no client refuses this tool's answers as an event, by the last one that was
        seen; None when none was."""
        is_large = self._is_large.get((place, call.method, call.name))
        return None if is_large is None else not is_large
