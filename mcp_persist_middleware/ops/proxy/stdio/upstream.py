"""A command that speaks MCP on its pipes, as an ASGI application that speaks Streamable HTTP.

One process for one session; at 2026-07-28, where there are none, one for each caller that is known,
or one for the request. What a process says finds its request by ids (routes.py).
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Sequence

from starlette.types import Message, Receive, Scope, Send

from mcp_persist_middleware import rarely
from mcp_persist_middleware.asgi import responses
from mcp_persist_middleware.ops.proxy.application import Application
from mcp_persist_middleware.ops.proxy.stdio import answers, requests
from mcp_persist_middleware.ops.proxy.stdio.child import BusyError, Child, GoneError
from mcp_persist_middleware.ops.proxy.stdio.options import StdioOptions
from mcp_persist_middleware.ops.proxy.stdio.pool import Children, UnstartableError
from mcp_persist_middleware.ops.proxy.stdio.requests import InvalidError, Posted
from mcp_persist_middleware.protocol import eras, headers

logger = rarely.logger(__name__)

OwnerOf = Callable[[Scope], Awaitable[str]]
_BUSY_SECONDS = 5


async def nobody(_: Scope) -> str:
    """Every caller is unknown."""
    return ""


class StdioUpstream(Application):
    """A program in the place of a server. Its processes belong to the event loop that uses it.

    Args:
        command: the program and its arguments.
        owner: who a request at 2026-07-28 is from, empty when that is not known.

    Raises:
        ConfigurationError: the command cannot be run.
    """

    def __init__(
        self,
        command: Sequence[str],
        options: StdioOptions | None = None,
        *,
        owner: OwnerOf = nobody,
    ) -> None:
        self.options = options or StdioOptions()
        self.children = Children(command, self.options)
        self.owner = owner

    async def aclose(self) -> None:
        await self.children.aclose()

    def circuit(self) -> str:
        """The state of the circuit breaker, for the health page."""
        return self.children.breaker.state.value

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = scope["headers"]
        try:
            requests.check_caller(raw, self.options)
            if scope["path"].rstrip("/") != self.options.path.rstrip("/"):
                await responses.not_found(send, "Not Found")
                return
            era = eras.era_of(headers.get(raw, headers.PROTOCOL_VERSION))
            exchange = _Exchange(self, scope, receive, send)
            # A version that nobody knows is refused in the words of the newest.
            if era is None or not era.keeps_sessions:
                await exchange.stateless()
            else:
                await exchange.of_session()
        except InvalidError as error:
            await answers.invalid(send, error)
        except BusyError as error:
            seconds = math.ceil(max((_BUSY_SECONDS, *error.args)))
            await responses.unavailable(send, "Too many processes or requests", seconds)
        except UnstartableError as error:
            logger.warning("MPM-PROXY-05: The command cannot be run: %s", error)
            await responses.refuse(send, 502, "The server cannot be started")
        except GoneError:
            await responses.refuse(send, 502, "The server's process has ended")


class _Exchange:
    """One HTTP request."""

    def __init__(self, upstream: StdioUpstream, scope: Scope, receive: Receive, send: Send) -> None:
        self._children = upstream.children
        self._options = upstream.options
        self._owner = upstream.owner
        self._scope = scope
        self._receive = receive
        self._send = send

    # Revisions with sessions.

    async def of_session(self) -> None:
        """Of a revision that has sessions."""
        method = self._scope["method"]
        session_id = headers.get(self._scope["headers"], headers.SESSION_ID)
        if method not in ("GET", "POST", "DELETE"):
            await answers.empty(self._send, 405, (b"allow", b"GET, POST, DELETE"))
            return
        asked = await self._posted() if method == "POST" else None
        if asked is not None and asked.is_request and asked.message["method"] == "initialize":
            await self._initialize(asked)
            return
        if session_id is None:
            raise InvalidError(400, requests.INVALID_REQUEST, "Missing session id")
        if (child := self._children.session(session_id)) is None:
            raise InvalidError(404, requests.INVALID_REQUEST, "Session not found")
        match method:
            case "DELETE":
                self._children.end(child)
                await answers.empty(self._send, 200)
            case "GET":
                await self._listen(child)
            case _ if asked is not None:
                await self._pass(child, asked)

    async def _initialize(self, asked: Posted) -> None:
        child = await self._children.begin(is_session=True)
        text = await self._first_answer(child, asked)
        body = text.encode("utf-8", "surrogatepass")
        if child.is_over or "result" not in json.loads(text):
            self._children.end(child)
            await answers.json_answer(self._send, 502 if child.is_over else 200, body)
            return
        session = (headers.SESSION_ID, self._children.keep(child).encode())
        await answers.json_answer(self._send, 200, body, session)

    async def _first_answer(self, child: Child, asked: Posted) -> str:
        """What a new process answers, and nothing that it says before.

        Raises:
            InvalidError: nothing, in time.
        """
        try:
            stream = await child.ask(asked.text, asked.message)
            async with asyncio.timeout(self._options.start_timeout):
                while True:
                    text, is_last = await stream.get()
                    if is_last:
                        return text
                    child.outbox.put(text)
        except TimeoutError:
            self._children.failed(child)
            text = "The server's process has not answered in time"
            raise InvalidError(504, -32000, text, request_id=asked.message["id"]) from None
        except BaseException:
            self._children.end(child)
            raise

    async def _listen(self, child: Child) -> None:
        """The session's own stream."""
        if child.outbox.is_taken:
            raise InvalidError(409, requests.INVALID_REQUEST, "This session's stream is open")

        async def following() -> tuple[str, bool]:
            text = await child.outbox.get()
            return (text, False) if text is not None else ("", True)

        child.outbox.is_taken = True
        try:
            await answers.unless_left(answers.event_stream(following, self._send), self._receive)
        finally:
            child.outbox.is_taken = False

    async def _pass(self, child: Child, asked: Posted) -> None:
        if not asked.is_request:
            await child.tell(asked.text, asked.message)
            await answers.empty(self._send, 202)
            return
        stream = await child.ask(asked.text, asked.message)
        try:
            # A client that leaves has cancelled nothing.
            await answers.unless_left(answers.event_stream(stream.get, self._send), self._receive)
        finally:
            stream.leave()

    # 2026-07-28.

    async def stateless(self) -> None:
        """Of a revision in which every request stands for itself."""
        if self._scope["method"] != "POST":
            await answers.empty(self._send, 405, (b"allow", b"POST"))
            return
        asked = await self._posted()
        if "method" not in asked.message:
            text = "The body must be a single JSON-RPC request or notification"
            raise InvalidError(400, requests.INVALID_REQUEST, text)
        if not asked.is_request:
            # There is none that a process could do anything with.
            await answers.empty(self._send, 202)
            return
        requests.check_modern(asked, self._scope["headers"])
        owner = await self._owner(self._scope)
        if owner:
            await self._ask(await self._children.of(owner), asked)
            return
        child = await self._children.begin(is_session=False)
        try:
            await self._ask(child, asked)
        finally:
            self._children.end(child)

    async def _ask(self, child: Child, asked: Posted) -> None:
        stream = await child.ask(asked.text, asked.message)
        try:
            answering = answers.modern_answer(stream, self._send)
            if asked.message["method"] == "server/discover":
                answering = self._in_time(child, answering)
            await answers.unless_left(answering, self._receive)
        finally:
            # What has been answered is not cancelled: a client that leaves has cancelled.
            await child.cancel(stream, "The client has left")

    async def _in_time(self, child: Child, answering: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._options.start_timeout):
                await answering
        except TimeoutError:
            self._children.failed(child)
            raise GoneError from None

    async def _posted(self) -> Posted:
        body = bytearray()
        while True:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                raise InvalidError(400, requests.INVALID_REQUEST, "The body is not whole")
            body += message.get("body", b"")
            if len(body) > self._options.max_line_bytes:
                text = f"The body is over {self._options.max_line_bytes} bytes"
                raise InvalidError(413, requests.INVALID_REQUEST, text)
            if not message.get("more_body", False):
                return requests.posted(bytes(body))
