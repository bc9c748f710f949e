"""Several upstream servers behind one name.

A session belongs to the server that began it, however busy that is. Only where nobody listens any
more its sessions are lost, and their requests go to another server: it says that it does not know
them, and the middleware in front brings them back there.
"""

import asyncio
import time
from collections.abc import Sequence

from starlette.types import Message, Receive, Scope, Send

from mcp_persist_middleware.ops.proxy.application import Application
from mcp_persist_middleware.ops.proxy.pool import FIRST_PAUSE, MOST_PAUSE, ConnectPolicy
from mcp_persist_middleware.ops.proxy.refusal import NotSentError, UnreachableError
from mcp_persist_middleware.ops.proxy.upstream import Upstream
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.recent import Recent

# A session that is not remembered is looked for anywhere, and brought back if it is not there.
_MOST_SESSIONS = 100_000


class Replicas(Application):
    """Upstream servers that do the same, as one ASGI application.

    A request without a session goes to the server that has the fewest under way, and to the next
    one when that cannot be reached, is full, or has its circuit open.
    """

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self.upstreams = tuple(upstreams)
        self.homes: Recent[str, Upstream] = Recent(_MOST_SESSIONS)
        """Which server began a session."""
        self._turn = 0

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request with what one of them says to it."""
        await _Request(self, scope, receive, send).run()

    async def aclose(self) -> None:
        await asyncio.gather(*(upstream.aclose() for upstream in self.upstreams))

    def circuit(self) -> dict[str, str]:
        """The state of each server's circuit, by its address."""
        return {each.pool.name: each.circuit() for each in self.upstreams}

    def in_order(self, home: Upstream | None) -> list[Upstream]:
        """Who is asked first, who next. Of those with as little to do it is another each time."""
        if home is None:
            self._turn = (self._turn + 1) % len(self.upstreams)
        turned = self.upstreams[self._turn :] + self.upstreams[: self._turn]
        return sorted(turned, key=lambda each: (each is not home, each.running))


class _Request:
    """A request on its way to the first server that takes it."""

    def __init__(self, replicas: Replicas, scope: Scope, receive: Receive, send: Send) -> None:
        self._replicas = replicas
        self._scope = scope
        self._receive = receive
        self._send = send
        self._session = headers.get(scope["headers"], headers.SESSION_ID)
        self._unreached: set[Upstream] = set()
        self._until = time.monotonic() + replicas.upstreams[0].pool.options.connect_timeout

    async def run(self) -> None:
        """Hand it over, or say why nobody takes it."""
        first = await self._receive()
        pause = FIRST_PAUSE
        while (refusal := await self._round(first)) is not None:
            is_over = time.monotonic() + pause >= self._until
            if is_over or not isinstance(refusal, UnreachableError):
                self._count()
                await refusal.refuse(self._scope, self._send)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE)

    async def _round(self, first: Message) -> NotSentError | None:
        """Try one after the other; why nobody takes it, when that is so."""
        homes, session = self._replicas.homes, self._session
        home = homes.get(session) if session is not None else None
        order = self._replicas.in_order(home)
        refusals: list[NotSentError] = []
        for number, upstream in enumerate(order):
            # Who is silent leaves time for those that come after.
            left = (self._until - time.monotonic()) / (len(order) - number)
            try:
                await self._handed(upstream, first, max(left, FIRST_PAUSE))
            except NotSentError as refusal:
                refusals.append(refusal)
                if isinstance(refusal, UnreachableError):
                    self._unreached.add(upstream)
            else:
                return None
            if upstream is home and not home.is_gone:
                return refusals[0]
        # The one that may be otherwise soonest.
        return min(refusals, key=lambda each: each.retry_after)

    async def _handed(self, upstream: Upstream, first: Message, seconds: float) -> None:
        """Have it answered by this server."""
        unread = [first]

        async def receive() -> Message:
            return unread.pop() if unread else await self._receive()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._unreached.discard(upstream)
                self._count()
                self._learn(upstream, message)
            await self._send(message)

        policy = ConnectPolicy(seconds, retries=False)
        await upstream.attempt(policy, self._scope, receive, send)

    def _count(self) -> None:
        """Count a failure of each that could not be reached, when the request has gone elsewhere
        or its time is over: while it waits for all of them to be started again, none has failed."""
        for upstream in self._unreached:
            upstream.breaker.failed()
        self._unreached.clear()

    def _learn(self, upstream: Upstream, head: Message) -> None:
        """Remember whose session it is that is spoken of."""
        if not 200 <= head["status"] < 300:
            return
        begun = headers.get(head.get("headers", ()), headers.SESSION_ID)
        homes, session = self._replicas.homes, self._session
        if self._scope["method"] == "DELETE" and session is not None:
            homes.pop(session, None)
        elif (named := begun or session) is not None:
            homes[named] = upstream
