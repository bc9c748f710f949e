"""An HTTP server somewhere else, as an ASGI application.

Bytes pass as they come, in both directions; nothing is decoded, followed, remembered or repeated.
What the upstream does not answer is answered here: 502 when it cannot be reached or says nothing
that is HTTP, 504 when it is late, 503 with `Retry-After` when there is no room or no use in trying.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator

import aiohttp
from starlette.types import Message, Receive, Scope, Send

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.ops.proxy import headers
from mcp_persist_middleware.ops.proxy.application import Application
from mcp_persist_middleware.ops.proxy.breaker import CircuitBreaker
from mcp_persist_middleware.ops.proxy.pool import (
    FIRST_PAUSE,
    MOST_PAUSE,
    ConnectionPool,
    ConnectPolicy,
    UpstreamOptions,
    why_unconnected,
)
from mcp_persist_middleware.ops.proxy.refusal import NotSentError, UnreachableError, refuse
from mcp_persist_middleware.supervision import scoped


class Upstream(Application):
    """One upstream server. Its sessions and connections belong to the event loop that uses it.

    Args:
        url: `http://…`, `https://…` or `http+unix://%2Frun%2Fmcp.sock/mcp`. Paths pass as they
            are; the one in the URL is where its MCP endpoint is.
        number: which one it is, in metrics.

    Raises:
        ConfigurationError: the URL is none of these.
    """

    def __init__(
        self, url: str, options: UpstreamOptions | None = None, *, number: int = 1
    ) -> None:
        self.pool = ConnectionPool(url, options or UpstreamOptions())
        self.number = str(number)
        self.breaker = CircuitBreaker(name=self.number)
        self.running = 0
        """Requests under way."""
        self.is_gone = False
        """Nobody took the last connection: what listened there has ended."""

    async def aclose(self) -> None:
        await self.pool.aclose()

    def circuit(self) -> str:
        """The state of its circuit."""
        return self.breaker.state.value

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy = ConnectPolicy(self.pool.options.connect_timeout)
        try:
            await self.attempt(policy, scope, receive, send)
        except NotSentError as error:
            if isinstance(error, UnreachableError):
                self.breaker.failed()
            await error.refuse(scope, send)

    async def attempt(
        self, policy: ConnectPolicy, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer an HTTP request, if it can be handed over.

        Raises:
            NotSentError: it cannot. That it was unreachable is for the caller to count, once for
                a request.
        """
        if self.running >= self.pool.options.max_requests:
            raise NotSentError(503, f"{self.running} requests are under way", 1)
        if not self.breaker.admits():
            seconds = math.ceil(self.breaker.retry_after)
            raise NotSentError(503, "The upstream cannot be reached", max(1, seconds))
        self.running += 1
        try:
            await _Passage(self, policy, scope, receive, send).run()
        except BaseException:
            self.breaker.withdrawn()
            raise
        finally:
            self.running -= 1


class _ClientGoneError(Exception):
    """Nobody waits for the answer any more."""


class _Passage:
    """One request on its way, and its response on the way back."""

    def __init__(
        self,
        upstream: Upstream,
        policy: ConnectPolicy,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self._upstream = upstream
        self._pool = upstream.pool
        self._breaker = upstream.breaker
        self._policy = policy
        self._scope = scope
        self._receive = receive
        self._send = send
        self._sent = asyncio.Event()
        """The whole body has been handed on."""

    async def run(self) -> None:
        """Pass it; the client has its answer, or has left."""
        answering = asyncio.current_task()
        assert answering is not None
        with scoped(self._watch(answering), "mcp-persist-proxy-watch") as watching:
            try:
                outcome = await self._pass()
            except asyncio.CancelledError:
                # Of our own watcher's cancellation nobody else is to hear.
                if not watching.done() or watching.cancelled() or answering.uncancel():
                    raise
                outcome = "left"
                self._breaker.withdrawn()
            except UnreachableError:
                self._count("unreachable")
                raise
        self._count(outcome)

    def _count(self, outcome: str) -> None:
        number = self._upstream.number
        telemetry.upstream_requests.add(1, {"outcome": outcome, "upstream": number})

    async def _watch(self, answering: "asyncio.Task[None]") -> None:
        """A client that leaves ends its request at the upstream too."""
        await self._sent.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        answering.cancel()

    async def _pass(self) -> str:
        pool, breaker, scope = self._pool, self._breaker, self._scope
        try:
            body = await self._body()
            response = await self._ask(body)
        except _ClientGoneError:
            breaker.withdrawn()
            return "left"
        except TimeoutError:
            breaker.failed()
            pool.complain("it began no answer in time")
            await refuse(scope, self._send, 504, "The upstream began no answer in time")
            return "late"
        except (aiohttp.ClientError, ValueError) as error:
            # A byte of the request may have arrived: it is not sent a second time.
            breaker.failed()
            pool.complain(f"it gave no answer ({type(error).__name__})")
            await refuse(scope, self._send, 502, "The upstream gave no answer")
            return "broken"
        breaker.succeeded()
        return await self._answer(response)

    # The request.

    async def _body(self) -> bytes | AsyncIterator[bytes] | None:
        """The body: in one piece when it came as one, else as it comes."""
        first = await self._part()
        if not first.get("more_body", False):
            self._sent.set()
            return first.get("body", b"") or None
        return self._parts(first)

    async def _parts(self, first: Message) -> AsyncIterator[bytes]:
        part = first
        while True:
            if part.get("body"):
                yield part["body"]
            if not part.get("more_body", False):
                self._sent.set()
                return
            part = await self._part()

    async def _part(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _ClientGoneError
        return message

    async def _ask(self, body: bytes | AsyncIterator[bytes] | None) -> aiohttp.ClientResponse:
        """Send the request; only a connection that did not come about is tried again."""
        policy = self._policy
        until, pause = time.monotonic() + policy.seconds, FIRST_PAUSE
        while True:
            try:
                response = await self._asked(body, max(until - time.monotonic(), FIRST_PAUSE))
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                # What a certificate says will not change.
                again = policy.retries and not isinstance(error, aiohttp.ClientSSLError)
                if not again or time.monotonic() + pause >= until:
                    self._upstream.is_gone = True
                    reason = f"it cannot be reached ({why_unconnected(error)})"
                    self._pool.complain(reason)
                    text = "The upstream cannot be reached"
                    raise UnreachableError(502, text, 1, reason) from error
            else:
                self._upstream.is_gone = False
                return response
            await asyncio.sleep(pause)
            pause = min(2 * pause, MOST_PAUSE)

    async def _asked(
        self, body: bytes | AsyncIterator[bytes] | None, seconds: float
    ) -> aiohttp.ClientResponse:
        pool, options = self._pool, self._pool.options
        asking = pool.client().request(
            self._scope["method"],
            pool.url_of(self._scope),
            headers=[(_text(n), _text(v)) for n, v in pool.request_headers(self._scope)],
            data=body,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=seconds, sock_read=options.idle_timeout
            ),
        )
        async with asyncio.timeout(options.head_timeout):
            return await asking

    # The response.

    async def _answer(self, response: aiohttp.ClientResponse) -> str:
        raw = headers.end_to_end(response.raw_headers)
        head: Message = {"type": "http.response.start", "status": response.status, "headers": raw}
        content = response.content
        try:
            await self._send(head)
            while not content.at_eof():
                # Taken together with the end where that is known by now.
                chunk = await content.readany()
                ended = content.at_eof()
                if chunk or ended:
                    await self._send(_part_of(chunk, more=not ended))
                if ended:
                    return "answered"
            await self._send(_part_of(b"", more=False))
        except (aiohttp.ClientError, TimeoutError) as error:
            # The response stays unfinished, as it is: whoever reads it must not take it for whole.
            self._pool.complain(f"it broke off a response ({type(error).__name__})")
            return "broken"
        finally:
            response.close() if not content.at_eof() else response.release()
        return "answered"


def _text(raw: bytes) -> str:
    """A part of a header so that aiohttp, which writes UTF-8, writes these bytes. What is not
    UTF-8 it cannot write as it is."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _part_of(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}
