"""An MCP application that keeps sessions in its memory, as every server does, and shows them."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass
class State:
    """One session."""

    said: list[str] = field(default_factory=list)
    """The methods of the messages it had, in their order."""
    calls: int = 0
    questions: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    asked: "dict[Any, asyncio.Future[Any]]" = field(default_factory=dict)


class Stateful:
    """Counts its sessions from 1, each with its `name` before it, and answers 404, or `unknown`, to
    one that it does not hold.

    Tools: `count` answers how many calls the session has had; `ask` asks the client and answers
    what it said; `tell` answers what the application was told of the session; `bad` gets 400.
    """

    def __init__(
        self,
        *,
        tools: bool = True,
        wait: float = 0.0,
        unknown: int = 404,
        name: str = "session",
    ) -> None:
        self.sessions: dict[str, State] = {}
        self.refuse: int | None = None
        """A status for every `initialize`."""
        self._capabilities = {"tools": {}} if tools else {}
        self._wait = wait
        self._unknown = unknown
        self._name = name
        self._ids = itertools.count(1)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError("no lifespan")
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        found = self.sessions.get(session := headers.get("mcp-session-id", ""))
        if scope["method"] == "POST":
            message = json.loads(await _body(receive))
            if message.get("method") == "initialize":
                await self._initialize(message, send)
            elif found is None:
                await _json(send, self._unknown, {"error": "what session?"})
            else:
                await self._message(found, message, scope, send)
        elif scope["method"] == "DELETE" and found is not None:
            del self.sessions[session]
            await _json(send, 200, None)
        else:
            await _json(send, 404 if found is None else 405, {"error": "what session?"})

    async def _initialize(self, message: Message, send: Send) -> None:
        await asyncio.sleep(self._wait)
        if self.refuse is not None:
            await _json(send, self.refuse, {"error": "no more sessions"})
            return
        session = f"{self._name}-{next(self._ids)}"
        self.sessions[session] = State(["initialize"])
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": self._capabilities,
            "serverInfo": {"name": "stateful", "version": "1"},
        }
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        await _json(send, 200, answer, (b"mcp-session-id", session.encode()))

    async def _message(self, state: State, message: Message, scope: Message, send: Send) -> None:
        state.said.append(message.get("method", "reply"))
        if "method" not in message:
            waiting = state.asked.pop(message["id"], None)
            if waiting is not None:
                waiting.set_result(message["result"])
            await _json(send, 202, None)
        elif "id" not in message:
            await _json(send, 202, None)
        elif message["method"] == "tools/call":
            await self._call(state, message, scope, send)
        else:
            result: Message = {"tools": []} if message["method"] == "tools/list" else {}
            await _json(send, 200, {"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def _call(self, state: State, message: Message, scope: Message, send: Send) -> None:
        state.calls += 1
        if message["params"]["name"] == "bad":
            await _json(send, 400, {"error": "what is this?"})
            return
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        match message["params"]["name"]:
            case "ask":
                number = next(state.questions)
                state.asked[number] = asyncio.get_running_loop().create_future()
                params = {"message": "who?", "_meta": {"progressToken": number}}
                await _event(send, {"id": number, "method": "elicitation/create", "params": params})
                text = await state.asked[number]
            case "tell":
                text = scope["extensions"]["mcp_persist"]
            case _:
                text = state.calls
        await _event(send, {"id": message["id"], "result": {"value": text}})
        await send({"type": "http.response.body", "body": b""})


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _event(send: Send, message: Message) -> None:
    data = json.dumps({"jsonrpc": "2.0", **message}).encode()
    frame = b"event: message\r\ndata: " + data + b"\r\n\r\n"
    await send({"type": "http.response.body", "body": frame, "more_body": True})


async def _json(send: Send, status: int, body: Any, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", b"application/json"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})
