"""An application of nothing but ASGI that does what servers do in the field, sane or not.

Its sessions are counted from 1 and belong to the user that a header names. An unknown session,
tool or method is a 404, a bad body a 400; `/mcp/` redirects to `/mcp`; `/echo` shows the request.
"""

import asyncio
import gzip
import hashlib
import itertools
import json
from typing import Any

from tests.peers.bare.asked import JSON, STREAM, Asked, Message, Receive, Send

_SHOWN = ("content-type", "accept", "cookie", "x-forwarded-for", "mcp-protocol-version")


class Session:
    """What the application knows of one."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.calls = 0
        self.questions: dict[int, asyncio.Future[Any]] = {}
        self.streams: list[asyncio.Event] = []


class Raw:
    """The application."""

    def __init__(self, *, json_mode: bool = False) -> None:
        self.sessions: dict[str, Session] = {}
        self._ids = itertools.count(1)
        self._json = json_mode

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError("no lifespan")
        asked = Asked(scope, receive, send)
        match scope["path"]:
            case "/mcp":
                await self._mcp(asked)
            case "/mcp/":
                await asked.body()
                await asked.head(307, (b"location", b"/mcp"), (b"content-length", b"0"))
                await asked.part(b"", more=False)
            case "/health":
                await asked.plain(200, "well")
            case "/echo":
                await self._echo(asked)
            case "/chat":
                await self._chat(asked)
            case _:
                await asked.plain(404, {"detail": "Not Found"})

    async def _echo(self, asked: Asked) -> None:
        body = await asked.body()
        shown = {name: value for name, value in asked.headers.items() if name in _SHOWN}
        digest = hashlib.sha256(body).hexdigest()
        seen = [asked.scope["method"], len(body), digest, sorted(shown.items())]
        await asked.plain(200, seen, (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"))

    async def _chat(self, asked: Asked) -> None:
        await asked.body()
        await asked.head(200, STREAM, (b"cache-control", b"no-cache"))
        await asked.part(b": hello\nid: 1\nretry: 7\ndata: a\n\n")
        await asked.part(b"data: b\ndata: c\n\n", more=False)

    async def _mcp(self, asked: Asked) -> None:
        method = asked.scope["method"]
        found = self.sessions.get(asked.headers.get("mcp-session-id", ""))
        if found is not None and found.user != asked.user:
            found = None
        if method == "POST":
            await self._post(asked, found)
        elif method == "OPTIONS":
            await asked.head(204, (b"allow", b"GET, POST, DELETE"))
            await asked.part(b"", more=False)
        elif method not in ("GET", "DELETE", "HEAD"):
            await asked.plain(405, "no", (b"allow", b"GET, POST, DELETE"))
        elif found is None:
            await asked.plain(404, {"error": "what session?"})
        elif method == "DELETE":
            del self.sessions[asked.headers["mcp-session-id"]]
            await asked.plain(200, None)
        elif method == "HEAD" or "text/event-stream" not in asked.headers.get("accept", ""):
            await asked.plain(200, {"calls": found.calls}, (b"set-cookie", b"lb=1"))
        else:
            await self._listen(asked, found)

    async def _listen(self, asked: Asked, found: Session) -> None:
        await asked.head(200, STREAM)
        await asked.event({"method": "notifications/message", "params": {"data": "hello"}})
        while (await asked.receive())["type"] != "http.disconnect":
            pass

    async def _post(self, asked: Asked, found: Session | None) -> None:
        body = await asked.body()
        try:
            message = asked.message = json.loads(body)
        except ValueError:
            await asked.plain(400, {"error": "no JSON", "bytes": len(body)})
            return
        if not isinstance(message, dict):
            await asked.plain(400, {"error": "no object", "bytes": len(body)})
        elif message.get("method") == "initialize":
            await self._initialize(asked)
        elif "2026-07-28" in asked.headers.get("mcp-protocol-version", ""):
            await self._message(asked, Session(""))
        elif found is None:
            await asked.plain(404, {"error": "what session?", "bytes": len(body)})
        else:
            await self._message(asked, found)

    async def _initialize(self, asked: Asked) -> None:
        params = asked.message.get("params") or {}
        if "protocolVersion" not in params:
            await asked.plain(400, {"error": "no version"})
            return
        name = f"session-{next(self._ids)}"
        self.sessions[name] = Session(asked.user)
        result = {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}, "resources": {"subscribe": True}, "logging": {}},
            "serverInfo": {"name": "raw", "version": "1"},
        }
        answer = {"jsonrpc": "2.0", "id": asked.message.get("id"), "result": result}
        await asked.plain(200, answer, (b"mcp-session-id", name.encode()))

    async def _message(self, asked: Asked, session: Session) -> None:
        message = asked.message
        method, number = message.get("method"), message.get("id")
        if method is None or "id" not in message:
            waiting = session.questions.pop(number, None) if method is None else None
            if waiting is not None and not waiting.done():
                waiting.set_result(message.get("result"))
            await asked.plain(202, None)
        elif method == "tools/call":
            await self._call(asked, session)
        elif method == "resources/list":
            error = {"code": -32601, "message": "Method not found"}
            await asked.plain(404, {"jsonrpc": "2.0", "id": number, "error": error})
        elif method in ("ping", "tools/list", "logging/setLevel", "resources/subscribe"):
            await asked.plain(200, {"jsonrpc": "2.0", "id": number, "result": {}})
        else:
            await asked.plain(404, {"error": "what method?"})

    async def _call(self, asked: Asked, session: Session) -> None:
        params = asked.message.get("params") or {}
        session.calls += 1
        tool = getattr(self, f"tool_{params.get('name')}", None)
        if tool is None:
            await asked.plain(404, {"error": "what tool?", "calls": session.calls})
            return
        await tool(asked, session, **params.get("arguments") or {})

    async def tool_tally(self, asked: Asked, session: Session) -> None:
        if self._json:
            result = {"value": session.calls}
            await asked.plain(200, {"jsonrpc": "2.0", "id": asked.message["id"], "result": result})
        else:
            await asked.result(session.calls)

    async def tool_length(self, asked: Asked, session: Session, text: str) -> None:
        await asked.result(len(text))

    async def tool_slow(self, asked: Asked, session: Session, seconds: float) -> None:
        """A stream that begins at once and answers late."""
        await asked.head(200, STREAM)
        await asyncio.sleep(seconds)
        await asked.event({"id": asked.message["id"], "result": {"value": "slept"}})
        await asked.part(b"", more=False)

    async def tool_status(self, asked: Asked, session: Session, code: int, size: int = 0) -> None:
        """Any status, with a body of this size."""
        await asked.plain(code, {"calls": session.calls, "pad": "x" * size})

    async def tool_redirect(self, asked: Asked, session: Session) -> None:
        await asked.head(308, (b"location", b"/elsewhere"), (b"content-length", b"0"))
        await asked.part(b"", more=False)

    async def tool_late(self, asked: Asked, session: Session, seconds: float, size: int) -> None:
        """JSON of this size after so long."""
        await asyncio.sleep(seconds)
        number = asked.message["id"]
        await asked.plain(200, {"jsonrpc": "2.0", "id": number, "result": {"pad": "x" * size}})

    async def tool_large(self, asked: Asked, session: Session, size: int) -> None:
        await self.tool_late(asked, session, 0.0, size)

    async def tool_steps(self, asked: Asked, session: Session, n: int, delay: float) -> None:
        await asked.head(200, STREAM, (b"x-steps", b"%d" % n), (b"set-cookie", b"lb=1"))
        for number in range(n):
            await asyncio.sleep(delay)
            await asked.event({"method": "notifications/progress", "params": {"progress": number}})
        await asked.event({"id": asked.message["id"], "result": {"value": n}})
        await asked.part(b"", more=False)

    async def tool_comments(self, asked: Asked, session: Session, n: int, delay: float) -> None:
        """Keep-alive comments from a tool that has nothing to say."""
        await asked.head(200, STREAM)
        for _ in range(n):
            await asyncio.sleep(delay)
            await asked.part(b": busy\n\n")
        await asked.event({"id": asked.message["id"], "result": {"value": n}})
        await asked.part(b"", more=False)

    async def tool_own(self, asked: Asked, session: Session) -> None:
        """Ids and a retry of its own."""
        await asked.head(200, STREAM)
        await asked.event(
            {"method": "notifications/message", "params": {}}, b"id: own-1\nretry: 9\n"
        )
        await asked.event({"id": asked.message["id"], "result": {}}, b"id: own-2\n")
        await asked.part(b"", more=False)

    async def tool_floats(self, asked: Asked, session: Session) -> None:
        """The answer has its id as an integer, as JavaScript writes whole numbers."""
        number = asked.message["id"]
        number = int(number) if isinstance(number, float) and number == int(number) else number
        await asked.head(200, STREAM)
        await asked.event({"id": number, "result": {"value": "whole"}})
        await asked.part(b"", more=False)

    async def tool_crash(self, asked: Asked, session: Session) -> None:
        raise RuntimeError("as asked")

    async def tool_breaks(self, asked: Asked, session: Session) -> None:
        """It raises in the middle of a JSON body."""
        await asked.head(200, JSON, (b"content-length", b"100"))
        await asked.part(b"{")
        raise RuntimeError("as asked")

    async def tool_packed(self, asked: Asked, session: Session) -> None:
        """JSON, compressed for who takes that, as `GZipMiddleware` inside does it."""
        number = asked.message["id"]
        data = json.dumps({"jsonrpc": "2.0", "id": number, "result": {"pad": "x" * 2000}}).encode()
        if "gzip" in asked.headers.get("accept-encoding", ""):
            await asked.head(200, JSON, (b"content-encoding", b"gzip"))
            data = gzip.compress(data, mtime=0)
        else:
            await asked.head(200, JSON)
        await asked.part(data, more=False)

    async def tool_ask(self, asked: Asked, session: Session) -> None:
        """A question to the client, for a moment."""
        session.questions[7] = asyncio.get_running_loop().create_future()
        await asked.head(200, STREAM)
        await asked.event({"id": 7, "method": "elicitation/create", "params": {}})
        try:
            text = await asyncio.wait_for(session.questions[7], 1.5)
        except TimeoutError:
            text = "no answer"
        await asked.event({"id": asked.message["id"], "result": {"value": text}})
        await asked.part(b"", more=False)

    async def tool_data(self, asked: Asked, session: Session) -> None:
        """Odd but valid frames: several data lines, CR LF, CR, another event's name, no blank."""
        await asked.head(200, STREAM)
        await asked.part(b"event: note\ndata: one\ndata:two\n\n")
        await asked.part(b'data: {"jsonrpc": "2.0",\r\ndata: "method": "x/y"}\r\n\r\n')
        await asked.part("data: \N{SNOWMAN}\r\r".encode())
        await asked.event({"id": asked.message["id"], "result": {}})
        await asked.part(b"", more=False)

    async def tool_unanswered(self, asked: Asked, session: Session) -> None:
        """A stream that ends without an answer."""
        await asked.head(200, STREAM)
        await asked.event({"method": "notifications/message", "params": {}})
        await asked.part(b"", more=False)
